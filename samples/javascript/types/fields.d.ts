/**
 * @param {Uint8Array} bytes
 * @param {string} file
 * @returns {unknown}
 */
export declare function readJson(bytes: Uint8Array, file: string): unknown;
/** The fields of an object. */
export declare class Fields {
    file: string;
    values: Record<string, unknown>;
    path: string;
    /**
     * @param {string} file
     * @param {Record<string, unknown>} values
     * @param {string} path
     */
    constructor(file: string, values: Record<string, unknown>, path: string);
    /** @param {string} name */
    of(name: string): Field;
}
/** A value of a file, with the path to it for messages. */
export declare class Field {
    file: string;
    value: unknown;
    path: string;
    /**
     * @param {string} file
     * @param {unknown} value
     * @param {string} path
     */
    constructor(file: string, value: unknown, path: string);
    /**
     * @param {string} expected
     * @returns {never}
     */
    refuse(expected: string): never;
    /** @returns {Fields} */
    object(): Fields;
    /**
     * @template T
     * @param {(field: Field, name: string) => T} read
     * @returns {Record<string, T>}
     */
    record<T>(read: (field: Field, name: string) => T): Record<string, T>;
    /**
     * @template T
     * @param {(field: Field) => T} read
     * @returns {T[]}
     */
    list<T>(read: (field: Field) => T): T[];
    /**
     * @template T
     * @param {(field: Field) => T} read
     * @returns {T | null}
     */
    optional<T>(read: (field: Field) => T): T | null;
    /**
     * @param {RegExp} [form]
     * @param {string} [expected]
     * @returns {string}
     */
    text(form?: RegExp, expected?: string): string;
    /** @returns {readonly string[]} */
    texts(): readonly string[];
    /** @returns {number} */
    size(): number;
    /** @returns {number | string} */
    dim(): number | string;
}
