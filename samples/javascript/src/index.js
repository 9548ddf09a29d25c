export { readAdapter } from "./adapter-file.js";
export { AdapterBundle } from "./bundle.js";
export { BundleError } from "./errors.js";
export { fetchSource } from "./sources.js";

/** @typedef {import("./adapter-file.js").PlainTensor} PlainTensor */
/** @typedef {import("./answers.js").Answer} Answer */
/** @typedef {import("./answers.js").ProblemType} ProblemType */
/** @typedef {import("./bundle.js").AdapterChoice} AdapterChoice */
/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./sources.js").ReadOptions} ReadOptions */
/** @typedef {import("./sources.js").Source} Source */
