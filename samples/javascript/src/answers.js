// What the outputs of a task head mean, by the problem type that the manifest has for it.

import { BundleError } from "./errors.js";

/** @typedef {"single_label_classification" | "multi_label_classification" | "regression"} ProblemType */
/**
 * The answer for one text.
 *
 * @typedef {object} Answer
 * @property {ProblemType} problemType
 * @property {readonly string[]} labels The class names, in the order of the values.
 * @property {number[]} logits The outputs of the task head as they are; for a regression, these are the values.
 * @property {number[] | null} probabilities Of the classes: softmax for one of several, sigmoid of each for a problem
 *   with several right labels; null for a regression.
 */

/** @type {readonly ProblemType[]} */
export const PROBLEM_TYPES = ["single_label_classification", "multi_label_classification", "regression"];

/**
 * The problem type of a head with `count` outputs. Without a stated one, a single output is a value, and several are
 * classes. One output is a value also where a choice of one class is stated.
 *
 * @param {ProblemType | null} stated
 * @param {number} count
 * @returns {ProblemType}
 */
export function meaning(stated, count) {
  if (stated === null || (stated === "single_label_classification" && count === 1))
    return count === 1 ? "regression" : "single_label_classification";
  return stated;
}

/**
 * @param {readonly number[]} logits
 * @param {readonly string[]} labels
 * @param {ProblemType | null} stated
 * @returns {Answer}
 * @throws {BundleError} There are more labels than values, or fewer.
 */
export function answer(logits, labels, stated) {
  if (logits.length !== labels.length)
    throw new BundleError(`logits: expected ${labels.length}, one for each label, found ${logits.length}`);
  const problemType = meaning(stated, logits.length);
  const values = [...logits];
  return { problemType, labels, logits: values, probabilities: probabilities(values, problemType) };
}

/**
 * @param {readonly number[]} logits
 * @param {ProblemType} problemType
 * @returns {number[] | null}
 */
function probabilities(logits, problemType) {
  if (problemType === "regression") return null;
  if (problemType === "multi_label_classification") return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
  const largest = Math.max(...logits);
  const exponents = logits.map((logit) => Math.exp(logit - largest));
  const sum = exponents.reduce((total, exponent) => total + exponent, 0);
  return exponents.map((exponent) => exponent / sum);
}

/**
 * The rows of logits, in the precision that JavaScript computes in.
 *
 * @param {import("./inputs.js").Value | undefined} logits Of a runtime. float16 is an array of numbers where the runtime
 *   has Float16Array, and of bits elsewhere.
 * @param {number} count
 * @returns {number[][]}
 * @throws {BundleError} They are not a matrix of so many rows.
 */
export function rowsOf(logits, count) {
  const [rows, columns] = logits?.dims ?? [];
  if (logits === undefined || rows !== count || columns === undefined)
    throw new BundleError(`logits: expected ${count} rows, found dims [${logits?.dims}]`);
  const { type, data } = logits;
  const values = Array.from(/** @type {ArrayLike<number>} */ (data));
  const numbers = type === "float16" && data instanceof Uint16Array ? values.map(half) : values;
  return Array.from({ length: rows }, (_, row) => numbers.slice(row * columns, (row + 1) * columns));
}

/** @param {number} bits Of a float16: 1 sign, 5 exponent, 10 fraction. */
function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, (bits & 1023) / 1024];
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -14 : sign * (1 + fraction) * 2 ** (exponent - 15);
}
