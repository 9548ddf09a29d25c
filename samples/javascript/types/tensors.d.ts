export type PlainTensor = import("./adapter-file.js").PlainTensor;
export type TensorInfo = import("./manifest.js").TensorInfo;
/** @typedef {import("./adapter-file.js").PlainTensor} PlainTensor */
/** @typedef {import("./manifest.js").TensorInfo} TensorInfo */
/** The tensors of a bundle's adapter files, each file read on first use and then kept. */
export declare class AdapterTensors {
    #private;
    /**
     * @param {import("./files.js").BundleFiles} files
     * @param {Record<string, TensorInfo>} wanted The adapter tensors of the graph.
     */
    constructor(files: import("./files.js").BundleFiles, wanted: Record<string, TensorInfo>);
    /**
     * The tensors of a file by name. A file that could not be used is read again at the next call.
     *
     * @param {string} path
     * @returns {Promise<Record<string, PlainTensor>>}
     * @throws {BundleError} The file is broken, or has other tensors than the graph.
     */
    of(path: string): Promise<Record<string, PlainTensor>>;
    /** @param {string} path */
    forget(path: string): void;
}
