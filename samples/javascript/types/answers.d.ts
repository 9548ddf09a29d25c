export type ProblemType = "single_label_classification" | "multi_label_classification" | "regression";
export type Answer = {
    problemType: ProblemType;
    /**
     * The class names, in the order of the values.
     */
    labels: readonly string[];
    /**
     * The outputs of the task head as they are; for a regression, these are the values.
     */
    logits: number[];
    /**
     * Of the classes: softmax for one of several, sigmoid of each for a problem
     * with several right labels; null for a regression.
     */
    probabilities: number[] | null;
};
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
export declare const PROBLEM_TYPES: readonly ProblemType[];
/**
 * The problem type of a head with `count` outputs. Without a stated one, a single output is a value, and several are
 * classes. One output is a value also where a choice of one class is stated.
 *
 * @param {ProblemType | null} stated
 * @param {number} count
 * @returns {ProblemType}
 */
export declare function meaning(stated: ProblemType | null, count: number): ProblemType;
/**
 * @param {readonly number[]} logits
 * @param {readonly string[]} labels
 * @param {ProblemType | null} stated
 * @returns {Answer}
 * @throws {BundleError} There are more labels than values, or fewer.
 */
export declare function answer(logits: readonly number[], labels: readonly string[], stated: ProblemType | null): Answer;
/**
 * The rows of logits, in the precision that JavaScript computes in.
 *
 * @param {import("./inputs.js").Value | undefined} logits Of a runtime. float16 is an array of numbers where the runtime
 *   has Float16Array, and of bits elsewhere.
 * @param {number} count
 * @returns {number[][]}
 * @throws {BundleError} They are not a matrix of so many rows.
 */
export declare function rowsOf(logits: import("./inputs.js").Value | undefined, count: number): number[][];
