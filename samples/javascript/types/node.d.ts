/**
 * The files of a bundle in a folder.
 *
 * @param {string} folder
 * @returns {import("./sources.js").Source}
 */
export declare function folderSource(folder: string): import("./sources.js").Source;
