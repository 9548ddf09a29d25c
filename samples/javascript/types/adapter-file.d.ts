/** What holds the numbers of a type in JavaScript; float16 as bits. Not there: bfloat16, which has no such array. */
declare const ARRAYS: {
    float32: Float32ArrayConstructor;
    uint8: Uint8ArrayConstructor;
    int8: Int8ArrayConstructor;
    uint16: Uint16ArrayConstructor;
    int16: Int16ArrayConstructor;
    int32: Int32ArrayConstructor;
    int64: BigInt64ArrayConstructor;
    float16: Uint16ArrayConstructor;
    float64: Float64ArrayConstructor;
    uint32: Uint32ArrayConstructor;
    uint64: BigUint64ArrayConstructor;
};
export type DataType = keyof typeof ARRAYS;
export type TensorData = InstanceType<(typeof ARRAYS)[DataType]>;
export type PlainTensor = {
    type: DataType;
    dims: readonly number[];
    data: TensorData;
};
/**
 * The tensors of a file by name. They are copies: the file's bytes may be changed afterwards.
 *
 * This checks the form of the file alone. Compare its sha256 with the bundle's manifest before you trust what is in it,
 * as `AdapterBundle` does.
 *
 * @param {Uint8Array} bytes The content of the file.
 * @param {string} [file] Its name, for messages.
 * @returns {Record<string, PlainTensor>}
 * @throws {BundleError} The bytes are not a valid adapter file, or it has a type that JavaScript has no numbers for.
 */
export declare function readAdapter(bytes: Uint8Array, file?: string): Record<string, PlainTensor>;
export {};
