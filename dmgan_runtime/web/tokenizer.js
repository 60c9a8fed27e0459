/** Captions to tokens, by the rules of docs/bundle.md. */

import { Aliases, parseAliases } from "./aliases.js";
import { BundleError, CaptionError, reason } from "./errors.js";
import { parseJson } from "./manifest.js";

export const PAD = "<end>";
export const MAX_CAPTION_CHARACTERS = 10_000;

// Words, and pictures that a caption should not lose in silence: docs/bundle.md says why these blocks.
const PICTURE = "[\\u2190-\\u23ff\\u25a0-\\u2775\\u2794-\\u2bff\\u{1f000}-\\u{1f0ff}\\u{1f10d}-\\u{1faff}]";
const CHANGES = "[\\ufe0e\\ufe0f\\u{1f3fb}-\\u{1f3ff}\\u{e0020}-\\u{e007f}]";
export const WORD = new RegExp(
  `[\\p{L}\\p{N}_]+|[\\u{1f1e6}-\\u{1f1ff}]{2}|${PICTURE}(?:${CHANGES}|\\u200d${PICTURE})*`,
  "gu",
);
const NOT_ASCII = /[^\0-\x7f]/gu;

/**
 * @typedef {object} Encoding A caption as the text encoder takes it, and what became of its words.
 * @property {BigInt64Array} tokens [T], padded with 0.
 * @property {number} length How many of the tokens are words, from 1 to T.
 * @property {string[]} words Those that became tokens.
 * @property {string[]} unknownWords Those that the vocabulary lacks, and emoji that are no aliases, as the caption has
 *   them but in lower case.
 * @property {string[]} cutWords The known words beyond T.
 */

/** Words to the places of a vocabulary. Place 0 is padding. */
export class Tokenizer {
  /** @type {Map<string, number>} */
  #index;
  /** @type {Aliases} */
  #aliases;

  /**
   * @param {string[]} words The vocabulary, whose first word is the padding.
   * @param {Iterable<[string, string]>} [aliases] Names by what captions may have in their place; those with an unknown
   *   word are left out.
   */
  constructor(words, aliases = []) {
    if (words[0] !== PAD) throw new Error(`a vocabulary starts with '${PAD}' (the padding)`);
    this.words = words;
    this.#index = new Map(words.map((word, place) => [word, place]));
    if (this.#index.size !== words.length) throw new Error("a vocabulary holds each word once; this one repeats some");
    this.#aliases = new Aliases([...aliases].filter(([, name]) => this.#reads(name)));
    /** @type {ReadonlyMap<string, string>} */
    this.aliases = this.#aliases.names;
  }

  /** @param {string} name */
  #reads(name) {
    const words = splitWords(name);
    return words.length > 0 && words.every(({ word }) => word && this.has(word));
  }

  /**
   * Reads a vocabulary from a JSON list of words.
   *
   * @param {Uint8Array} content
   * @param {string} where Names the file in messages.
   * @returns {Tokenizer}
   */
  static fromJson(content, where) {
    try {
      const words = parseJson(decode(content));
      if (!Array.isArray(words) || !words.every((word) => typeof word === "string")) {
        throw new Error("it is no list of text");
      }
      return new Tokenizer(words);
    } catch (error) {
      throw new BundleError(`${where}: cannot be read as a vocabulary (${reason(error)}); export the bundle again`);
    }
  }

  /**
   * The same vocabulary, with the aliases of a JSON object of names by aliases.
   *
   * @param {Uint8Array} content
   * @param {string} where Names the file in messages.
   * @returns {Tokenizer}
   */
  withAliases(content, where) {
    try {
      return new Tokenizer(this.words, parseAliases(decode(content)));
    } catch (error) {
      throw new BundleError(`${where}: cannot be read as aliases (${reason(error)}); export the bundle again`);
    }
  }

  /** @param {string} word */
  has(word) {
    return this.#index.has(word);
  }

  /**
   * The aliases of a caption, with their names, and what is between them; joined, they are the caption.
   *
   * @param {string} caption
   */
  split(caption) {
    return this.#aliases.split(caption);
  }

  /**
   * Turns a caption into tokens, keeping its first known words.
   *
   * @param {unknown} caption
   * @param {number} maxWords T.
   * @returns {Encoding}
   */
  encode(caption, maxWords) {
    if (typeof caption !== "string") throw new CaptionError(`a caption is text, not ${typeof caption}; pass a string`);
    const characters = caption.length <= MAX_CAPTION_CHARACTERS ? caption.length : [...caption].length;
    if (characters > MAX_CAPTION_CHARACTERS) {
      throw new CaptionError(
        `a caption has ${characters.toLocaleString("en")} characters, over ` +
          `${MAX_CAPTION_CHARACTERS.toLocaleString("en")}; shorten it (the model reads its first ${maxWords} words)`,
      );
    }
    const quoted = `'${[...caption.slice(0, 160)].slice(0, 80).join("")}'`;
    const parts = Array.from(this.split(caption), ({ text, name }) => (name === null ? text : ` ${name} `));
    const split = splitWords(parts.join(""));
    if (!split.some(({ word }) => word)) {
      const emoji = this.aliases.size ? " and no emoji that the model knows" : "";
      throw new CaptionError(`the caption ${quoted} has no words${emoji}; describe the picture in English words`);
    }
    const known = split.filter(({ word }) => word && this.has(word)).map(({ word }) => word);
    if (!known.length) {
      throw new CaptionError(
        `no word of the caption ${quoted} is in the model's vocabulary of ` +
          `${(this.words.length - 1).toLocaleString("en")} words; use words of its vocab.json`,
      );
    }
    const words = known.slice(0, maxWords);
    const tokens = new BigInt64Array(maxWords);
    words.forEach((word, place) => (tokens[place] = BigInt(/** @type {number} */ (this.#index.get(word)))));
    return {
      tokens,
      length: words.length,
      words,
      unknownWords: split.filter(({ word }) => !word || !this.has(word)).map(({ written }) => written),
      cutWords: known.slice(maxWords),
    };
  }
}

/**
 * The words as the model reads them, maybe empty, each as it was written in the caption; emoji are empty words.
 *
 * @param {string} caption
 * @returns {{word: string, written: string}[]}
 */
export function splitWords(caption) {
  const runs = caption.toLowerCase().match(WORD) ?? [];
  return runs.map((written) => ({ word: written.replace(NOT_ASCII, ""), written }));
}

/** @param {Uint8Array} content */
function decode(content) {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
}
