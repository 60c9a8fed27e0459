/** Aliases: what a caption may have in place of words, such as emoji, and the names that are read for them. */

export const MAX_ALIASES = 65_536;
export const MAX_ALIAS_CHARACTERS = 32;
export const MAX_NAME_CHARACTERS = 128;

const VARIATION_SELECTOR = /[\ufe0e\ufe0f]/;
const TAG = /^[\u{e0020}-\u{e007f}]/u;
const NOT_ASCII = /[^\0-\x7f]/;
const QUOTED = 40;

/** Finds aliases in captions. */
export class Aliases {
  /** @type {Map<string, number[]>} */
  #lengths = new Map();

  /** @param {Iterable<[string, string]>} names By alias; one that docs/bundle.md does not allow is an error. */
  constructor(names) {
    this.names = new Map(names);
    checkAliases(this.names);
    /** @type {Map<string, Set<number>>} */
    const found = new Map();
    for (const alias of this.names.keys()) {
      const first = characterAt(alias, 0);
      found.set(first, (found.get(first) ?? new Set()).add(alias.length));
    }
    for (const [first, lengths] of found) this.#lengths.set(first, [...lengths].sort((one, other) => other - one));
  }

  /**
   * Cuts a caption into its aliases, with their names, and what is between them, in a time that grows with its length
   * alone. Joined, the parts are the caption.
   *
   * @param {string} caption
   * @returns {Generator<{text: string, name: string | null}, void>}
   */
  *split(caption) {
    if (!this.names.size || !NOT_ASCII.test(caption)) {
      yield { text: caption, name: null };
      return;
    }
    const places = [];
    for (let place = 0; place < caption.length; place++) {
      if (!VARIATION_SELECTOR.test(caption[place])) places.push(place);
    }
    const plain = places.map((place) => caption[place]).join("");
    places.push(caption.length);
    let start = 0;
    for (let at = 0; at < plain.length; ) {
      const alias = this.#longest(plain, at);
      if (!alias) {
        at += 1;
        continue;
      }
      yield { text: caption.slice(start, places[at]), name: null };
      start = places[at + alias.length];
      yield { text: caption.slice(places[at], start), name: this.names.get(alias) ?? null };
      at += alias.length;
    }
    yield { text: caption.slice(start), name: null };
  }

  /**
   * The longest alias at a place of a text; empty if there is none.
   *
   * @param {string} plain
   * @param {number} at
   */
  #longest(plain, at) {
    for (const length of this.#lengths.get(characterAt(plain, at)) ?? []) {
      const alias = plain.slice(at, at + length);
      // Tags tell the flag of England from a black flag: they belong to what is before them.
      if (this.names.has(alias) && !TAG.test(characterAt(plain, at + alias.length))) return alias;
    }
    return "";
  }
}

/**
 * Reads aliases from JSON.
 *
 * @param {string} text An object of names by aliases.
 * @returns {Map<string, string>}
 */
export function parseAliases(text) {
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("it is no object");
  const names = new Map(Object.entries(value));
  for (const each of [...names.keys(), ...names.values()]) {
    if (typeof each !== "string" || /\p{Cs}/u.test(each)) throw new Error("it holds what is no text");
  }
  checkAliases(names);
  return names;
}

/** @param {Map<string, string>} names */
function checkAliases(names) {
  if (names.size > MAX_ALIASES) {
    throw new Error(`there are ${spelled(names.size)} aliases, and at most ${spelled(MAX_ALIASES)} are read`);
  }
  for (const [alias, name] of names) {
    if (isLonger(alias, MAX_ALIAS_CHARACTERS)) {
      throw new Error(`the alias '${alias.slice(0, QUOTED)}' has over ${MAX_ALIAS_CHARACTERS} characters`);
    }
    if (!NOT_ASCII.test(alias)) {
      throw new Error(`the alias '${alias}' is plain text; an alias has a character that is not ASCII`);
    }
    if (VARIATION_SELECTOR.test(alias)) {
      throw new Error(`the alias '${alias}' has a variation selector (U+FE0E, U+FE0F); leave it out`);
    }
    if (isLonger(name, MAX_NAME_CHARACTERS)) {
      throw new Error(`the name '${name.slice(0, QUOTED)}' has over ${MAX_NAME_CHARACTERS} characters`);
    }
  }
}

/**
 * @param {string} text
 * @param {number} most Code points.
 */
function isLonger(text, most) {
  return text.length > most && (text.length > 2 * most || [...text].length > most);
}

/**
 * The code point at a place, as text; empty at the end.
 *
 * @param {string} text
 * @param {number} at
 */
function characterAt(text, at) {
  return at < text.length ? String.fromCodePoint(/** @type {number} */ (text.codePointAt(at))) : "";
}

/** @param {number} count */
function spelled(count) {
  return count.toLocaleString("en");
}
