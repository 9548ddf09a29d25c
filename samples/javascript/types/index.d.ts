export { readAdapter } from "./adapter-file.js";
export { AdapterBundle } from "./bundle.js";
export { BundleError } from "./errors.js";
export { fetchSource } from "./sources.js";
export type PlainTensor = import("./adapter-file.js").PlainTensor;
export type Answer = import("./answers.js").Answer;
export type ProblemType = import("./answers.js").ProblemType;
export type AdapterChoice = import("./bundle.js").AdapterChoice;
export type Manifest = import("./manifest.js").Manifest;
export type ReadOptions = import("./sources.js").ReadOptions;
export type Source = import("./sources.js").Source;
/** @typedef {import("./adapter-file.js").PlainTensor} PlainTensor */
/** @typedef {import("./answers.js").Answer} Answer */
/** @typedef {import("./answers.js").ProblemType} ProblemType */
/** @typedef {import("./bundle.js").AdapterChoice} AdapterChoice */
/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./sources.js").ReadOptions} ReadOptions */
/** @typedef {import("./sources.js").Source} Source */
