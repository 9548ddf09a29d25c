export type Value = {
    type: string;
    dims: readonly number[];
    data: unknown;
};
/** @typedef {{ type: string, dims: readonly number[], data: unknown }} Value A tensor of a runtime, or a plain one. */
/**
 * The number of rows of a model's inputs.
 *
 * @param {Record<string, Value>} inputs
 * @param {readonly string[]} wanted The names that the model takes.
 * @returns {number}
 * @throws {BundleError} There are other names, or the inputs have different numbers of rows.
 */
export declare function checkedRows(inputs: Record<string, Value>, wanted: readonly string[]): number;
