// What users of the package get from its types: `tsc` refuses this file where it differs.
import { AdapterBundle, BundleError, fetchSource, readAdapter } from "adapter-export";
import type { Answer, PlainTensor, Source } from "adapter-export";
import { folderSource } from "adapter-export/node";
import * as ort from "onnxruntime-common";

export async function classify(texts: Record<string, ort.Tensor>): Promise<readonly number[] | null> {
  const source: Source = folderSource("bundle");
  const bundle: AdapterBundle = await AdapterBundle.open(source, { expectSha256: "0".repeat(64) });
  const session: ort.InferenceSession = await bundle.createSession(ort, { executionProviders: ["wasm"] });
  const answers: Answer[] = await bundle.classify(ort, session, texts, ["topics", null]);
  const labels: readonly string[] | null = bundle.labels("topics");
  // @ts-expect-error: labels are not there for every adapter.
  labels.length;
  // @ts-expect-error: an adapter has a name, or is null.
  await bundle.feeds(1, 1);
  return answers[0]?.probabilities ?? null;
}

export function read(bytes: Uint8Array): ort.Tensor[] {
  const tensors: Record<string, PlainTensor> = readAdapter(bytes, "topics.onnx_adapter");
  return Object.values(tensors).map(({ type, data, dims }) => new ort.Tensor(type, data as ort.Tensor.DataType, dims));
}

export const sources: Source[] = [fetchSource("https://example.org/bundle/"), async () => new Uint8Array()];
export const isOurs = (error: unknown): error is BundleError => error instanceof BundleError;
