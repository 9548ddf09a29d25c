// Runs a bundle with the C API of ONNX Runtime, and prints what each run computes.
//
//     run BUNDLE TOKENS [ADAPTER ...]
//
// TOKENS are the token ids of one text: "101 2023 2003 102". What ADAPTER is depends on the mode of the bundle:
//
//     swappable         names of adapters, or - for none: one run for each, in this order and in one session
//     bank              numbers of adapters (slot in manifest.json), or 0 for none: one run with a row for each
//     merged, embedded  nothing: the graph has its adapter
//
// A line is the adapter of the run, the name of an output, its shape and its numbers, with tabs between them.
// ONNX Runtime does not check adapter files. Compare their sha256 with manifest.json before you trust them.

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <onnxruntime_c_api.h>

// The first version of the API that has adapters. Libraries of later versions have it, too.
#define API_VERSION 20
#define PATH_SIZE 4096
// input_ids, attention_mask, token_type_ids, adapter_ids.
#define MOST_INPUTS 4

static const OrtApi *api;

static _Noreturn void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("error: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void check(OrtStatus *status) {
  if (status != NULL) fail("%s", api->GetErrorMessage(status));
}

static void check_file(const char *path, OrtStatus *status) {
  if (status != NULL) fail("%s: %s", path, api->GetErrorMessage(status));
}

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count > 0 ? count : 1, size);
  if (memory == NULL) fail("out of memory");
  return memory;
}

static void join(char path[PATH_SIZE], const char *format, const char *bundle, const char *name) {
  const int length = snprintf(path, PATH_SIZE, format, bundle, name);
  if (length < 0 || length >= PATH_SIZE) fail("%s: the path is too long", bundle);
}

// Reads one whole number, and moves `text` behind it. Returns 0 at the end of the text.
static int next_number(const char **text, int64_t *number) {
  char *end;
  *text += strspn(*text, " ");
  if (**text == '\0') return 0;
  errno = 0;
  *number = strtoll(*text, &end, 10);
  if (end == *text || errno != 0) fail("expected a whole number, found '%s'", *text);
  *text = end;
  return 1;
}

// A batch: the same text in each row, and for a bank the number of the adapter of each row.
typedef struct {
  size_t rows, length;
  int64_t *tokens, *ones, *zeros, *adapters;
} Batch;

static Batch new_batch(const char *tokens, size_t rows) {
  Batch batch = {.rows = rows};
  int64_t token;
  for (const char *text = tokens; next_number(&text, &token);) batch.length++;
  if (batch.length == 0) fail("expected token ids, found none");
  batch.tokens = allocate(rows * batch.length, sizeof(int64_t));
  batch.ones = allocate(rows * batch.length, sizeof(int64_t));
  batch.zeros = allocate(rows * batch.length, sizeof(int64_t));
  batch.adapters = allocate(rows, sizeof(int64_t));
  for (size_t row = 0; row < rows; row++) {
    const char *text = tokens;
    for (size_t index = row * batch.length; next_number(&text, &token); index++) {
      batch.tokens[index] = token;
      batch.ones[index] = 1;
    }
  }
  return batch;
}

static void free_batch(Batch *batch) {
  free(batch->tokens);
  free(batch->ones);
  free(batch->zeros);
  free(batch->adapters);
}

// The names of a session's inputs and outputs. ONNX Runtime's default allocator owns them.
typedef struct {
  size_t inputs, outputs;
  char *input[MOST_INPUTS], **output;
  OrtAllocator *allocator;
} Names;

static Names new_names(const OrtSession *session) {
  Names names;
  check(api->GetAllocatorWithDefaultOptions(&names.allocator));
  // Overridable initializers, the tensors of adapters, are not counted.
  check(api->SessionGetInputCount(session, &names.inputs));
  check(api->SessionGetOutputCount(session, &names.outputs));
  if (names.inputs > MOST_INPUTS)
    fail("the graph has %zu inputs: expected one without a cache, with adapters as overridable initializers",
         names.inputs);
  names.output = allocate(names.outputs, sizeof(char *));
  for (size_t i = 0; i < names.inputs; i++)
    check(api->SessionGetInputName(session, i, names.allocator, &names.input[i]));
  for (size_t i = 0; i < names.outputs; i++)
    check(api->SessionGetOutputName(session, i, names.allocator, &names.output[i]));
  return names;
}

static void free_names(Names *names) {
  for (size_t i = 0; i < names->inputs; i++) check(api->AllocatorFree(names->allocator, names->input[i]));
  for (size_t i = 0; i < names->outputs; i++) check(api->AllocatorFree(names->allocator, names->output[i]));
  free(names->output);
}

static int takes_numbers(const Names *names) {
  for (size_t i = 0; i < names->inputs; i++)
    if (strcmp(names->input[i], "adapter_ids") == 0) return 1;
  return 0;
}

static OrtValue *new_input(const char *name, const Batch *batch, const OrtMemoryInfo *memory) {
  const int64_t shape[] = {(int64_t)batch->rows, (int64_t)batch->length};
  size_t rank = 2, count = batch->rows * batch->length;
  int64_t *numbers = NULL;
  if (strcmp(name, "input_ids") == 0) numbers = batch->tokens;
  else if (strcmp(name, "attention_mask") == 0) numbers = batch->ones;
  else if (strcmp(name, "token_type_ids") == 0) numbers = batch->zeros;
  else if (strcmp(name, "adapter_ids") == 0) numbers = batch->adapters, rank = 1, count = batch->rows;
  else fail("input %s: this program does not know what belongs there", name);
  OrtValue *value = NULL;
  check(api->CreateTensorWithDataAsOrtValue(memory, numbers, count * sizeof(int64_t), shape, rank,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &value));
  return value;
}

static void print(const char *adapter, const char *name, OrtValue *value) {
  OrtTensorTypeAndShapeInfo *info;
  ONNXTensorElementDataType type;
  size_t rank, count;
  const float *numbers;
  check(api->GetTensorTypeAndShape(value, &info));
  check(api->GetTensorElementType(info, &type));
  check(api->GetDimensionsCount(info, &rank));
  check(api->GetTensorShapeElementCount(info, &count));
  if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) fail("output %s: expected float32", name);
  int64_t *shape = allocate(rank, sizeof(int64_t));
  check(api->GetDimensions(info, shape, rank));
  check(api->GetTensorMutableData(value, (void **)&numbers));
  printf("%s\t%s\t", adapter, name);
  for (size_t i = 0; i < rank; i++) printf("%s%" PRId64, i > 0 ? " " : "", shape[i]);
  putchar('\t');
  // Nine digits give every float32 back.
  for (size_t i = 0; i < count; i++) printf("%s%.9g", i > 0 ? " " : "", (double)numbers[i]);
  putchar('\n');
  free(shape);
  api->ReleaseTensorTypeAndShapeInfo(info);
}

// One run: with the tensors of the adapter, if there is one, in place of those of none.
static void run(OrtSession *session, const Names *names, const Batch *batch, const char *title,
                const OrtLoraAdapter *adapter) {
  OrtMemoryInfo *memory;
  OrtRunOptions *options;
  OrtValue *inputs[MOST_INPUTS] = {NULL}, **outputs = allocate(names->outputs, sizeof(OrtValue *));
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  for (size_t i = 0; i < names->inputs; i++) inputs[i] = new_input(names->input[i], batch, memory);
  check(api->CreateRunOptions(&options));
  if (adapter != NULL) check(api->RunOptionsAddActiveLoraAdapter(options, adapter));
  check(api->Run(session, options, (const char *const *)names->input, (const OrtValue *const *)inputs, names->inputs,
                 (const char *const *)names->output, names->outputs, outputs));
  for (size_t i = 0; i < names->outputs; i++) print(title, names->output[i], outputs[i]);
  for (size_t i = 0; i < names->outputs; i++) api->ReleaseValue(outputs[i]);
  for (size_t i = 0; i < names->inputs; i++) api->ReleaseValue(inputs[i]);
  free(outputs);
  api->ReleaseRunOptions(options);
  api->ReleaseMemoryInfo(memory);
}

// Mode swappable: one run with the adapter of that name.
static void run_with(OrtSession *session, const Names *names, const Batch *batch, const char *bundle,
                     const char *name) {
  char path[PATH_SIZE];
  OrtLoraAdapter *adapter = NULL;
  if (strcmp(name, "-") != 0) {
    join(path, "%s/adapters/%s.onnx_adapter", bundle, name);
    check_file(path, api->CreateLoraAdapter(path, NULL, &adapter));
  }
  run(session, names, batch, name, adapter);
  // Not before its last run has ended: run options keep no copy. A service keeps its adapters open.
  if (adapter != NULL) api->ReleaseLoraAdapter(adapter);
}

// Mode bank: one run in which each row has the adapter of its number.
static void run_rows(OrtSession *session, const Names *names, const char *tokens, char **numbers, int count) {
  Batch batch = new_batch(tokens, (size_t)count);
  for (int row = 0; row < count; row++) {
    const char *text = numbers[row];
    int64_t unused;
    if (!next_number(&text, &batch.adapters[row]) || next_number(&text, &unused))
      fail("expected the number of an adapter, found '%s'", numbers[row]);
  }
  run(session, names, &batch, "rows", NULL);
  free_batch(&batch);
}

int main(int count, char **arguments) {
  if (count < 3) fail("usage: %s BUNDLE TOKENS [ADAPTER ...]", arguments[0]);
  const char *bundle = arguments[1], *tokens = arguments[2];
  char **adapters = arguments + 3;
  const int chosen = count - 3;

  const OrtApiBase *base = OrtGetApiBase();
  api = base->GetApi(API_VERSION);
  if (api == NULL) fail("expected ONNX Runtime 1.%d or newer, found %s", API_VERSION, base->GetVersionString());
  OrtEnv *environment;
  OrtSessionOptions *options;
  OrtSession *session;
  char path[PATH_SIZE];
  // Errors only: there is a warning for each tensor that adapters fill.
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "run", &environment));
  check(api->CreateSessionOptions(&options));
  join(path, "%s/%s", bundle, "model.onnx");
  check_file(path, api->CreateSession(environment, path, options, &session));

  Names names = new_names(session);
  if (takes_numbers(&names)) {
    if (chosen == 0) fail("expected the numbers of adapters: %s is a bank", bundle);
    run_rows(session, &names, tokens, adapters, chosen);
  } else {
    Batch batch = new_batch(tokens, 1);
    for (int i = 0; i < chosen; i++) run_with(session, &names, &batch, bundle, adapters[i]);
    if (chosen == 0) run(session, &names, &batch, "-", NULL);
    free_batch(&batch);
  }

  free_names(&names);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
  return 0;
}
