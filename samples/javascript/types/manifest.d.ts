export type TensorInfo = {
    dtype: string;
    shape: readonly (number | string)[];
};
export type AdapterInfo = {
    name: string;
    method: string;
    /**
     * Class names of its task head; null without one.
     */
    labels: readonly string[] | null;
    problemType: import("./answers.js").ProblemType | null;
    /**
     * Its number in the graph of a bank; null if it is not in the graph.
     */
    slot: number | null;
    /**
     * Its file in the bundle; null without one.
     */
    file: string | null;
};
export type Manifest = {
    /**
     * How a run chooses its adapter: by `adapter_ids` (mode bank), or by the adapter's
     * tensors as inputs (mode swappable, exported with `--bind input`).
     */
    choice: "bank" | "input";
    task: string;
    /**
     * Of the graph, without the adapters' tensors and `adapter_ids`.
     */
    inputs: Record<string, TensorInfo>;
    outputs: Record<string, TensorInfo>;
    /**
     * The adapters' tensors.
     */
    tensors: Record<string, TensorInfo>;
    adapters: readonly AdapterInfo[];
    /**
     * sha256 of the bundle's files.
     */
    files: Record<string, string>;
    /**
     * Class names of the base model's own head; null without one.
     */
    labels: readonly string[] | null;
    /**
     * Of the base model's own head.
     */
    problemType: import("./answers.js").ProblemType | null;
    /**
     * Size of the model's table of positions; 0 without a table, null if not known.
     */
    positions: number | null;
    /**
     * Tokens of the longest text that the model takes; null without a limit.
     */
    longestText: number | null;
};
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
export declare const MANIFEST = "manifest.json";
export declare const GRAPH = "model.onnx";
export declare const NO_ADAPTER = "no_adapter.onnx_adapter";
export declare const ADAPTER_IDS = "adapter_ids";
export declare const NUM_LABELS = "num_labels";
/**
 * @param {Uint8Array} bytes
 * @returns {Manifest}
 * @throws {BundleError} It is broken, or JavaScript cannot run such a bundle.
 */
export declare function readManifest(bytes: Uint8Array): Manifest;
