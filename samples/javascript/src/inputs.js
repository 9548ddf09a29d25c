import { BundleError } from "./errors.js";

/** @typedef {{ type: string, dims: readonly number[], data: unknown }} Value A tensor of a runtime, or a plain one. */

/**
 * The number of rows of a model's inputs.
 *
 * @param {Record<string, Value>} inputs
 * @param {readonly string[]} wanted The names that the model takes.
 * @returns {number}
 * @throws {BundleError} There are other names, or the inputs have different numbers of rows.
 */
export function checkedRows(inputs, wanted) {
  const found = Object.keys(inputs);
  if (wanted.length !== found.length || !wanted.every((name) => Object.hasOwn(inputs, name)))
    throw new BundleError(`inputs: expected ${wanted.join(", ")}, found ${found.join(", ") || "none"}`);
  const counts = new Set(Object.values(inputs).map(({ dims }) => dims[0]));
  const [rows] = counts;
  if (counts.size !== 1 || rows === undefined)
    throw new BundleError(`inputs: expected the same number of rows in each, found ${[...counts].join(", ")}`);
  return rows;
}
