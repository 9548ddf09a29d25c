/** What is wrong with a bundle or with a call. The message names the file, what was expected, and what was found. */
export class BundleError extends Error {
  name = "BundleError";
}

/**
 * Text of a file, as a message shows it: in quotes, with control characters as escapes, and not longer than a line.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function shown(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 100 ? `${text.slice(0, 100)}...` : text;
}
