/** What is wrong with a bundle or with a call. The message names the file, what was expected, and what was found. */
export declare class BundleError extends Error {
    name: string;
}
/**
 * Text of a file, as a message shows it: in quotes, with control characters as escapes, and not longer than a line.
 *
 * @param {unknown} value
 * @returns {string}
 */
export declare function shown(value: unknown): string;
