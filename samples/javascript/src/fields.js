// Reads JSON of files that are untrusted: each value is asked for with its type, and refused by its path.

import { BundleError, shown } from "./errors.js";

/**
 * @param {Uint8Array} bytes
 * @param {string} file
 * @returns {unknown}
 */
export function readJson(bytes, file) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new BundleError(`${file}: expected JSON: ${/** @type {Error} */ (error).message}`, { cause: error });
  }
}

/** The fields of an object. */
export class Fields {
  /**
   * @param {string} file
   * @param {Record<string, unknown>} values
   * @param {string} path
   */
  constructor(file, values, path) {
    this.file = file;
    this.values = values;
    this.path = path;
  }

  /** @param {string} name */
  of(name) {
    const value = Object.hasOwn(this.values, name) ? this.values[name] : undefined;
    return new Field(this.file, value, this.path ? `${this.path}.${name}` : name);
  }
}

/** A value of a file, with the path to it for messages. */
export class Field {
  /**
   * @param {string} file
   * @param {unknown} value
   * @param {string} path
   */
  constructor(file, value, path) {
    this.file = file;
    this.value = value;
    this.path = path;
  }

  /**
   * @param {string} expected
   * @returns {never}
   */
  refuse(expected) {
    throw new BundleError(`${this.file}: field '${this.path}': expected ${expected}, found ${shown(this.value)}`);
  }

  /** @returns {Fields} */
  object() {
    const value = this.value;
    if (typeof value !== "object" || value === null || Array.isArray(value)) return this.refuse("an object");
    return new Fields(this.file, /** @type {Record<string, unknown>} */ (value), this.path);
  }

  /**
   * @template T
   * @param {(field: Field, name: string) => T} read
   * @returns {Record<string, T>}
   */
  record(read) {
    const fields = this.object();
    return Object.fromEntries(Object.keys(fields.values).map((name) => [name, read(fields.of(name), name)]));
  }

  /**
   * @template T
   * @param {(field: Field) => T} read
   * @returns {T[]}
   */
  list(read) {
    if (!Array.isArray(this.value)) return this.refuse("a list");
    return this.value.map((item, index) => read(new Field(this.file, item, `${this.path}[${index}]`)));
  }

  /**
   * @template T
   * @param {(field: Field) => T} read
   * @returns {T | null}
   */
  optional(read) {
    return this.value === undefined || this.value === null ? null : read(this);
  }

  /**
   * @param {RegExp} [form]
   * @param {string} [expected]
   * @returns {string}
   */
  text(form = /^/, expected = "a text") {
    return typeof this.value === "string" && form.test(this.value) ? this.value : this.refuse(expected);
  }

  /** @returns {readonly string[]} */
  texts() {
    return this.list((item) => item.text());
  }

  /** @returns {number} */
  size() {
    const value = this.value;
    return typeof value === "number" && Number.isSafeInteger(value) && value >= 0
      ? value
      : this.refuse("a whole number of at least 0");
  }

  /** @returns {number | string} */
  dim() {
    return typeof this.value === "string" ? this.value : this.size();
  }
}
