// Texts to inputs of the model, as adapter_export.TextEncoder does it in Python. The library reads tokenizer.json; what
// it leaves to its callers is here: where texts are cut, and whether the model has token types.

import { Tokenizer } from "@huggingface/tokenizers";

const KNOWN = ["input_ids", "attention_mask", "token_type_ids"];
// transformers writes 1e30 for "no limit".
const NO_LIMIT = 2 ** 30;

export class TextEncoder {
  /** @param {import("adapter-export").AdapterBundle} bundle */
  static async of(bundle) {
    const settings = bundle.has("tokenizer_config.json") ? await bundle.readJson("tokenizer_config.json") : {};
    return new TextEncoder(await bundle.readJson("tokenizer.json"), settings, bundle.manifest);
  }

  /**
   * @param {object} tokenizer Of tokenizer.json.
   * @param {Record<string, any>} settings Of tokenizer_config.json.
   * @param {import("adapter-export").Manifest} manifest
   */
  constructor(tokenizer, settings, manifest) {
    this.inputs = Object.keys(manifest.inputs);
    const other = this.inputs.filter((name) => !KNOWN.includes(name));
    if (other.length > 0) throw new Error(`the model takes ${other.join(", ")}, which no text gives`);
    if (settings.split_special_tokens === true)
      throw new Error("tokenizer_config.json: 'split_special_tokens' is not supported");
    this.tokenizer = new Tokenizer(tokenizer, settings);
    this.types = (settings.model_input_names ?? KNOWN).includes("token_type_ids");
    const limits = [settings.model_max_length, manifest.longestText];
    this.maxLength = Math.min(...limits.filter((limit) => limit > 0 && limit < NO_LIMIT));
    this.left = settings.truncation_side === "left";
  }

  /**
   * One text as a batch of one row.
   *
   * @param {string} text
   * @returns {{ inputs: Record<string, { type: "int64", dims: number[], data: BigInt64Array }>, tokens: number, truncated: boolean }}
   */
  encode(text) {
    const { ids: all, token_type_ids: given } = this.tokenizer.encode(text, { return_token_type_ids: true });
    const truncated = all.length > this.maxLength;
    const whole = [all, (this.types && given) || all.map(() => 0)];
    const [ids, types] = truncated ? this.#cut(text, whole) : whole;
    if (ids.length === 0 || ids.includes(undefined)) throw new Error("the tokenizer has no tokens for this text");
    const rows = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: types };
    const tensor = (name) => ({ type: "int64", dims: [1, ids.length], data: BigInt64Array.from(rows[name], BigInt) });
    return { inputs: Object.fromEntries(this.inputs.map((name) => [name, tensor(name)])), tokens: ids.length, truncated };
  }

  /** The tokens of the text are cut, the special tokens around them stay. */
  #cut(text, [ids, types]) {
    const own = this.tokenizer.encode(text, { add_special_tokens: false }).ids;
    const special = ids.length - own.length;
    let start = 0;
    while (start < special && !own.every((id, index) => id === ids[start + index])) start++;
    const keep = Math.max(this.maxLength - special, 0);
    const from = this.left ? start + own.length - keep : start;
    const cut = (row) => [...row.slice(0, start), ...row.slice(from, from + keep), ...row.slice(start + own.length)];
    return [cut(ids), cut(types)];
  }
}
