/** A bundle in one .zip, read in memory; what no exported bundle holds is refused as docs/bundle.md says. */

import { BundleError, reason } from "./errors.js";
import { staysInside } from "./manifest.js";

const MAX_INFLATION = 100;
const [STORED, DEFLATED] = [0, 8];
const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const END_BYTES = 22;

/** @typedef {{name: string, flags: number, method: number, crc: number, packed: number, size: number,
 *   attributes: number, offset: number}} Entry */

/** The files of a .zip. */
export class Zip {
  /** @type {Map<string, Entry>} */
  #entries = new Map();
  #prefix = "";

  /**
   * @param {Uint8Array} content
   * @param {string} where Names it in messages.
   */
  constructor(content, where) {
    this.content = content;
    this.where = where;
    this.view = new DataView(content.buffer, content.byteOffset, content.byteLength);
    for (const entry of this.#directory()) this.#take(entry);
    if (!this.#entries.has("manifest.json")) {
      const folders = [...this.#entries.keys()].filter((name) => name.endsWith("/manifest.json"));
      if (folders.length === 1) this.#prefix = folders[0].slice(0, -"manifest.json".length);
    }
  }

  /** @param {Entry} entry */
  #take(entry) {
    const name = entry.name.replaceAll("\\", "/"); // Windows PowerShell 5.1 writes backslashes
    if (!staysInside(name) || ((entry.attributes >>> 16) & 0xf000) === 0xa000 || this.#entries.has(name)) {
      throw new BundleError(
        `${this.where}: unsafe: its entry '${entry.name}' is a link, comes twice or leaves the bundle; use a .zip from a` +
          " source that you trust",
      );
    }
    if (entry.flags & 1 || (entry.method !== STORED && entry.method !== DEFLATED)) {
      throw new BundleError(
        `${this.where}: its entry '${name}' is encrypted or compressed in a rare way; make the .zip without a` +
          " password, with the usual deflate",
      );
    }
    this.#entries.set(name, entry);
  }

  /** @returns {Generator<Entry>} */
  *#directory() {
    const { view } = this;
    try {
      let end = view.byteLength - END_BYTES;
      const first = Math.max(0, end - 0xffff);
      while (end > first && view.getUint32(end, true) !== END) end--;
      if (view.getUint32(end, true) !== END) throw new Error("it has no directory");
      const count = view.getUint16(end + 10, true);
      const length = view.getUint32(end + 12, true);
      const shift = end - length - view.getUint32(end + 16, true); // of a .zip that something was put before
      if (shift < 0) throw new Error("its directory is damaged");
      let place = end - length;
      for (let number = 0; number < count; number++) {
        if (view.getUint32(place, true) !== CENTRAL) throw new Error("its directory is damaged");
        const flags = view.getUint16(place + 8, true);
        const nameLength = view.getUint16(place + 28, true);
        yield {
          name: this.#name(place + 46, nameLength, flags),
          flags,
          method: view.getUint16(place + 10, true),
          crc: view.getUint32(place + 16, true),
          packed: view.getUint32(place + 20, true),
          size: view.getUint32(place + 24, true),
          attributes: view.getUint32(place + 38, true),
          offset: shift + view.getUint32(place + 42, true),
        };
        place += 46 + nameLength + view.getUint16(place + 30, true) + view.getUint16(place + 32, true);
      }
    } catch (error) {
      if (error instanceof BundleError) throw error;
      throw new BundleError(
        `${this.where}: neither a folder nor a readable .zip (${reason(error)}); pass one that dmgan-export wrote, or` +
          " copy it again",
      );
    }
  }

  /**
   * @param {number} start
   * @param {number} length
   * @param {number} flags
   */
  #name(start, length, flags) {
    if (start + length > this.content.length) throw new Error("its directory is damaged");
    const utf8 = flags & 0x800;
    return new TextDecoder(utf8 ? "utf-8" : "latin1", { fatal: true }).decode(
      this.content.subarray(start, start + length),
    );
  }

  /**
   * Reads a file.
   *
   * @param {string} name
   * @param {number} most A file with more bytes is not unpacked.
   * @returns {Promise<{content: Uint8Array, size: number}>}
   */
  async read(name, most) {
    const where = `${this.where}/${name}`;
    const entry = this.#entries.get(this.#prefix + name);
    if (!entry) {
      throw new BundleError(`${where}: missing; pass a whole bundle, a folder or .zip that dmgan-export wrote`);
    }
    const { packed, size } = entry;
    if (size > MAX_INFLATION * Math.max(packed, 2 ** 10)) {
      throw new BundleError(
        `${where}: unsafe: ${packed.toLocaleString("en")} bytes that claim to become ${size.toLocaleString("en")}, as` +
          " in a decompression bomb; use a .zip from a source that you trust",
      );
    }
    try {
      return { content: size > most ? new Uint8Array() : await this.#unpack(entry), size };
    } catch (error) {
      throw new BundleError(`${where}: cannot be read (${reason(error)}); copy the bundle again from where it came`);
    }
  }

  /** @param {Entry} entry */
  async #unpack(entry) {
    const { view } = this;
    if (view.getUint32(entry.offset, true) !== LOCAL) throw new Error("its header is damaged");
    const nameLength = view.getUint16(entry.offset + 26, true);
    if (this.#name(entry.offset + 30, nameLength, view.getUint16(entry.offset + 6, true)) !== entry.name) {
      throw new Error("its header is another file's");
    }
    const start = entry.offset + 30 + nameLength + view.getUint16(entry.offset + 28, true);
    const packed = this.content.slice(start, start + entry.packed);
    if (packed.length !== entry.packed) throw new Error("it is cut");
    const content = entry.method === STORED ? packed : await inflate(packed, entry.size);
    if (content.length !== entry.size || crc32(content) !== entry.crc) throw new Error("Bad CRC-32");
    return content;
  }
}

/**
 * Inflates no more than a number of bytes, whatever more there would be.
 *
 * @param {Uint8Array<ArrayBuffer>} packed
 * @param {number} size
 * @returns {Promise<Uint8Array>}
 */
async function inflate(packed, size) {
  const reader = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const content = new Uint8Array(size);
  let filled = 0;
  while (filled < size) {
    const { done, value } = await reader.read();
    if (done) throw new Error("it is cut");
    const part = value.subarray(0, size - filled);
    content.set(part, filled);
    filled += part.length;
  }
  await reader.cancel().catch(() => {});
  return content;
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/**
 * @param {Uint8Array} content
 * @returns {number}
 */
export function crc32(content) {
  let value = 0xffffffff;
  for (const byte of content) value = CRC[(value ^ byte) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}
