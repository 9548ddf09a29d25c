export type PlainTensor = import("./adapter-file.js").PlainTensor;
export type Answer = import("./answers.js").Answer;
export type Manifest = import("./manifest.js").Manifest;
export type Source = import("./sources.js").Source;
export type AdapterName = string | null;
export type AdapterChoice = AdapterName | readonly AdapterName[];
export type Value = import("./inputs.js").Value;
export type Ort = {
    Tensor: new (type: any, data: any, dims: readonly number[]) => any;
};
export type Session = {
    run(feeds: any): Promise<Record<string, any>>;
};
export type OrtSessions<S> = {
    InferenceSession: {
        create(graph: Uint8Array, options?: any): Promise<S>;
    };
};
export type Watching = import("./files.js").Watching;
/**
 * A bundle: the folder that `adapter-export onnx` writes. One session of ONNX Runtime runs it with any of its adapters.
 *
 *     const bundle = await AdapterBundle.open("bundle/");
 *     const session = await bundle.createSession(ort);
 *     const [answer] = await bundle.classify(ort, session, inputs, "topics");
 *
 * The sha256 of each file is compared with the manifest's when the file is read. Adapters are read on first use and then
 * kept. As in ONNX Runtime for JavaScript itself, a session computes one run at a time: await each.
 */
export declare class AdapterBundle {
    #private;
    /** @readonly */
    manifest: import("./manifest.js").Manifest;
    /**
     * Use `AdapterBundle.open`.
     *
     * @param {Source} source
     * @param {Manifest} manifest
     */
    constructor(source: Source, manifest: Manifest);
    /**
     * Reads the manifest.
     *
     * @param {string | URL | Source} source Address of the bundle's folder, or what reads a file of it by its path.
     * @param {{ expectSha256?: string }} [options] expectSha256: hex digest of manifest.json. Take it from a place that
     *   the writer of the bundle cannot change: the manifest lists the digests of all other files.
     * @throws {BundleError} The manifest is missing, broken or another one, or JavaScript cannot run such a bundle.
     */
    static open(source: string | URL | Source, { expectSha256 }?: {
        expectSha256?: string;
    }): Promise<AdapterBundle>;
    /** Names of the adapters that a run can have. In a bank they are those of its export; `add` puts none in the graph. */
    get adapters(): string[];
    /**
     * Class names of the outputs with an adapter; null if they are not classes.
     *
     * @param {AdapterName} [adapter]
     */
    labels(adapter?: AdapterName): readonly string[] | null;
    /**
     * What the outputs with an adapter mean, as the manifest states it.
     *
     * @param {AdapterName} [adapter]
     */
    problemType(adapter?: AdapterName): import("./answers.js").ProblemType | null;
    /**
     * A file of the bundle, once its sha256 is that of the manifest.
     *
     * @param {string} path
     * @param {Watching} [options]
     * @returns {Promise<Uint8Array>}
     * @throws {BundleError} The bundle has no such file, it cannot be read, or it has changed.
     */
    read(path: string, options?: Watching): Promise<Uint8Array>;
    /**
     * Whether the bundle has a file.
     *
     * @param {string} path
     */
    has(path: string): boolean;
    /**
     * A file of the bundle with JSON in it.
     *
     * @param {string} path
     */
    readJson(path: string): Promise<unknown>;
    /**
     * Reads the graph, with weights beside it if there are such, and makes a session of it. onnxruntime-node takes the
     * path of the graph as well, and then reads the weights itself: `ort.InferenceSession.create("bundle/model.onnx")`.
     *
     * @template S
     * @param {OrtSessions<S>} ort
     * @param {Record<string, unknown>} [options] As for `InferenceSession.create`.
     * @param {Watching & { onFile?: (path: string) => void }} [watching] onFile: called as each file begins.
     * @returns {Promise<S>}
     */
    createSession<S>(ort: OrtSessions<S>, options?: Record<string, unknown>, { onFile, ...watching }?: Watching & {
        onFile?: (path: string) => void;
    }): Promise<S>;
    /**
     * Reads the adapter's file now, so that the first run with it does not wait. In a bank there is nothing to read.
     *
     * @param {AdapterName} adapter
     */
    load(adapter: AdapterName): Promise<void>;
    /**
     * Forgets what was read of an adapter's file. The next run with it reads it again.
     *
     * @param {string} adapter
     */
    unload(adapter: string): void;
    /**
     * What a run is given besides the inputs of the model, as plain tensors: the values of all adapter tensors, or
     * `adapter_ids` in mode bank.
     *
     * @param {AdapterChoice} adapter
     * @param {number} rows Number of texts of the batch.
     * @returns {Promise<Record<string, PlainTensor>>}
     */
    feeds(adapter: AdapterChoice, rows: number): Promise<Record<string, PlainTensor>>;
    /**
     * Runs the graph on a batch.
     *
     * @param {Ort} ort
     * @param {Session} session A session of this bundle's graph.
     * @param {Record<string, Value>} inputs The model's inputs by name, with their batch axis.
     * @param {AdapterChoice} [adapter]
     * @returns {Promise<Record<string, Value>>} The outputs as the graph has them. In a bank, logits have as many columns
     *   as the adapter with the most labels; `classify` cuts them.
     */
    run(ort: Ort, session: Session, inputs: Record<string, Value>, adapter?: AdapterChoice): Promise<Record<string, Value>>;
    /**
     * Runs the graph on a batch, and tells what its logits mean.
     *
     * @param {Ort} ort
     * @param {Session} session
     * @param {Record<string, Value>} inputs
     * @param {AdapterChoice} [adapter]
     * @returns {Promise<Answer[]>} One for each row, with exactly the labels of its adapter.
     * @throws {BundleError} The bundle is for another task, or the base model has no labels of its own.
     */
    classify(ort: Ort, session: Session, inputs: Record<string, Value>, adapter?: AdapterChoice): Promise<Answer[]>;
}
