// The parts of a bundle's manifest.json that running it needs. Manifests are untrusted: every field is checked.

import { PROBLEM_TYPES } from "./answers.js";
import { BundleError, shown } from "./errors.js";
import { Field, Fields, readJson } from "./fields.js";

/** @typedef {{ dtype: string, shape: readonly (number | string)[] }} TensorInfo A dim is a number or a name. */
/**
 * @typedef {object} AdapterInfo
 * @property {string} name
 * @property {string} method
 * @property {readonly string[] | null} labels Class names of its task head; null without one.
 * @property {import("./answers.js").ProblemType | null} problemType
 * @property {number | null} slot Its number in the graph of a bank; null if it is not in the graph.
 * @property {string | null} file Its file in the bundle; null without one.
 */
/**
 * @typedef {object} Manifest
 * @property {"bank" | "input"} choice How a run chooses its adapter: by `adapter_ids` (mode bank), or by the adapter's
 *   tensors as inputs (mode swappable, exported with `--bind input`).
 * @property {string} task
 * @property {Record<string, TensorInfo>} inputs Of the graph, without the adapters' tensors and `adapter_ids`.
 * @property {Record<string, TensorInfo>} outputs
 * @property {Record<string, TensorInfo>} tensors The adapters' tensors.
 * @property {readonly AdapterInfo[]} adapters
 * @property {Record<string, string>} files sha256 of the bundle's files.
 * @property {readonly string[] | null} labels Class names of the base model's own head; null without one.
 * @property {import("./answers.js").ProblemType | null} problemType Of the base model's own head.
 * @property {number | null} positions Size of the model's table of positions; 0 without a table, null if not known.
 * @property {number | null} longestText Tokens of the longest text that the model takes; null without a limit.
 */

export const MANIFEST = "manifest.json";
export const GRAPH = "model.onnx";
export const NO_ADAPTER = "no_adapter.onnx_adapter";
export const ADAPTER_IDS = "adapter_ids";
export const NUM_LABELS = "num_labels";
const FORMAT_VERSION = 2;
const ADAPTER_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const SHA256 = /^[0-9a-f]{64}$/;

/**
 * @param {Uint8Array} bytes
 * @returns {Manifest}
 * @throws {BundleError} It is broken, or JavaScript cannot run such a bundle.
 */
export function readManifest(bytes) {
  const root = new Field(MANIFEST, readJson(bytes, MANIFEST), "").object();
  const version = root.of("format_version").value;
  if (version !== FORMAT_VERSION)
    throw new BundleError(`${MANIFEST}: field 'format_version': expected ${FORMAT_VERSION}, found ${shown(version)}`);
  const choice = chosenBy(root);
  const files = root.of("files").record((field, path) => {
    if (!isInside(path)) throw new BundleError(`${MANIFEST}: path ${shown(path)}: expected a path inside the bundle`);
    return field.text(SHA256, "a sha256");
  });
  const graph = root.of("graphs").object().of(GRAPH).object();
  const { [ADAPTER_IDS]: _, ...inputs } = graph.of("inputs").record(tensorInfo);
  const sites = root.of("sites").list((site) => site.object().of("tensors").record(tensorInfo));
  const manifest = {
    choice,
    task: root.of("task").text(),
    inputs,
    outputs: graph.of("outputs").record(tensorInfo),
    tensors: Object.fromEntries(sites.flatMap(Object.entries)),
    adapters: root.of("adapters").list(adapterInfo),
    files,
    labels: root.of("labels").optional((field) => field.texts()),
    problemType: root.of("problem_type").optional(problemType),
    positions: root.of("positions").optional((field) => field.size()),
    longestText: root.of("longest_text").optional((field) => field.size()),
  };
  const names = manifest.adapters.map(({ name }) => name);
  if (new Set(names).size !== names.length) throw new BundleError(`${MANIFEST}: field 'adapters': a name is there twice`);
  return manifest;
}

/**
 * @param {Fields} root
 * @returns {Manifest["choice"]}
 */
function chosenBy(root) {
  const mode = root.of("mode").text();
  if (mode === "bank") return "bank";
  const bind = root.of("bind").optional((field) => field.text());
  if (mode === "swappable" && bind === "input") return "input";
  const found = mode === "swappable" ? `mode swappable with '--bind ${bind ?? "initializer"}'` : `mode ${mode}`;
  throw new BundleError(
    `${MANIFEST}: expected mode bank, or mode swappable with '--bind input', found ${found}: ` +
      "ONNX Runtime for JavaScript would compute the same for every adapter",
  );
}

/**
 * Whether a path leads to a file of the bundle, on every system and in addresses.
 *
 * @param {string} path
 */
function isInside(path) {
  return !/[\\:\p{C}]/u.test(path) && path.split("/").every((part) => !["", ".", ".."].includes(part));
}

/** @param {Field} field */
function tensorInfo(field) {
  const info = field.object();
  return { dtype: info.of("dtype").text(), shape: info.of("shape").list((dim) => dim.dim()) };
}

/** @param {Field} field */
function problemType(field) {
  const found = field.value;
  return PROBLEM_TYPES.find((type) => type === found) ?? field.refuse(`one of ${PROBLEM_TYPES.join(", ")}`);
}

/**
 * @param {Field} field
 * @returns {AdapterInfo}
 */
function adapterInfo(field) {
  const info = field.object();
  const name = info.of("name").text(ADAPTER_NAME, "the name of an adapter");
  const file = info.of("file").optional((path) => path.text());
  const version = file?.match(/@[0-9a-f]{12}(?=\.onnx_adapter$)/)?.[0] ?? "";
  if (file !== null && file !== `adapters/${name}${version}.onnx_adapter`)
    info.of("file").refuse(`'adapters/${name}.onnx_adapter'`);
  return {
    name,
    method: info.of("method").text(),
    labels: info.of("labels").optional((labels) => labels.texts()),
    problemType: info.of("problem_type").optional(problemType),
    slot: info.of("slot").optional((slot) => slot.size()),
    file,
  };
}
