/** A bundle: a folder behind a URL, or one .zip. Its files are proven by size and SHA-256 before anything uses them. */

import { BackendError, BundleError, reason, SettingsError } from "./errors.js";
import { parseManifest } from "./manifest.js";
import { checkOnnxFile } from "./onnx_file.js";
import { Tokenizer } from "./tokenizer.js";
import { Zip } from "./zip.js";

export const MAX_MANIFEST_BYTES = 16 * 2 ** 20;
export const MAX_VOCABULARY_BYTES = 16 * 2 ** 20;
export const MAX_FILE_BYTES = 2 * 2 ** 30;
const LFS_POINTER = "version https://git-lfs.github.com/spec/";

/**
 * @typedef {import("./manifest.js").FileEntry} FileEntry
 * @typedef {import("./manifest.js").GraphEntry} GraphEntry
 * @typedef {string | URL | ArrayBuffer | Uint8Array | Blob} BundleSource
 * @typedef {(path: string, bytes: number) => void} Arrived Told of each part of a file that came.
 */

/** An open bundle. */
export class Bundle {
  /** @type {Folder | Zip} */
  #files;

  /**
   * @param {Folder | Zip} files
   * @param {string} where
   * @param {import("./manifest.js").Manifest} manifest
   */
  constructor(files, where, manifest) {
    this.#files = files;
    this.where = where;
    this.manifest = manifest;
  }

  /**
   * Opens a bundle and reads its manifest; the other files are read when they are asked for.
   *
   * @param {BundleSource} source The URL of a folder or of a .zip, or the content of a .zip.
   * @param {typeof globalThis.fetch} fetch
   * @returns {Promise<Bundle>}
   */
  static async open(source, fetch) {
    if (!globalThis.crypto?.subtle) {
      throw new BackendError(
        "this page may not compute SHA-256, and no file is used unproven; open it over https or on localhost",
      );
    }
    const { files, where } = await openFiles(source, fetch);
    const name = `${where}/manifest.json`;
    const { content, size } = await files.read("manifest.json", MAX_MANIFEST_BYTES);
    checkLimit(size, MAX_MANIFEST_BYTES, name);
    checkNoPointer(content, name);
    return new Bundle(files, where, parseManifest(content, name));
  }

  /**
   * Reads a file once and returns exactly the bytes whose size and SHA-256 were checked.
   *
   * @param {FileEntry} entry
   * @param {number} [limit] How many bytes it may have.
   * @param {Arrived} [arrived]
   * @returns {Promise<Uint8Array>}
   */
  async read(entry, limit = MAX_FILE_BYTES, arrived = undefined) {
    const where = `${this.where}/${entry.path}`;
    const damaged = (/** @type {string} */ found, /** @type {string} */ expected) =>
      new BundleError(
        `${where}: damaged or replaced: ${found}, the manifest says ${expected}; copy the bundle again from where it` +
          " came",
      );
    checkLimit(entry.bytes, limit, where);
    const { content, size } = await this.#files.read(entry.path, entry.bytes, arrived);
    checkNoPointer(content, where);
    if (size !== entry.bytes) throw damaged(`it has ${spelled(size)} bytes`, spelled(entry.bytes));
    const sha256 = await digest(content);
    if (sha256 !== entry.sha256) throw damaged(`its SHA-256 is ${sha256}`, entry.sha256);
    return content;
  }

  /**
   * Reads a graph, and refuses one that no export writes.
   *
   * @param {GraphEntry} graph
   * @param {Arrived} [arrived]
   */
  async graph(graph, arrived) {
    const content = await this.read(graph.file, MAX_FILE_BYTES, arrived);
    checkOnnxFile(content, `${this.where}/${graph.file.path}`);
    return content;
  }

  /**
   * The vocabulary, with its aliases.
   *
   * @param {Arrived} [arrived]
   */
  async tokenizer(arrived) {
    const { file, aliases } = this.manifest.tokenizer;
    const content = await this.read(file, MAX_VOCABULARY_BYTES, arrived);
    const tokenizer = Tokenizer.fromJson(content, `${this.where}/${file.path}`);
    if (!aliases) return tokenizer;
    const names = await this.read(aliases, MAX_VOCABULARY_BYTES, arrived);
    return tokenizer.withAliases(names, `${this.where}/${aliases.path}`);
  }
}

/**
 * @param {string | URL} source
 * @param {string | undefined} base
 */
function parseUrl(source, base) {
  try {
    return new URL(source, base);
  } catch {
    return null;
  }
}

/** @param {URL} url for messages; its escapes may be those of another charset than UTF-8 */
function readable(url) {
  try {
    return decodeURI(url.href);
  } catch {
    return url.href;
  }
}

/**
 * @param {BundleSource} source
 * @param {typeof globalThis.fetch} fetch
 */
async function openFiles(source, fetch) {
  if (typeof source === "string" || source instanceof URL) {
    const base = globalThis.document?.baseURI ?? globalThis.location?.href;
    const url = parseUrl(source, base);
    if (!url) throw new BundleError(`${source}: no URL; pass that of a bundle's folder or .zip`);
    const where = readable(url).replace(/\/$/, "");
    if (!url.pathname.endsWith(".zip")) return { files: new Folder(url, where, fetch), where };
    const { content, size } = await download(url, where, MAX_FILE_BYTES, fetch);
    checkLimit(size, MAX_FILE_BYTES, where);
    return { files: new Zip(content, where), where };
  }
  if (source instanceof Uint8Array) return { files: new Zip(source, "the .zip"), where: "the .zip" };
  if (source instanceof ArrayBuffer || source instanceof Blob) {
    const content = new Uint8Array(source instanceof Blob ? await source.arrayBuffer() : source);
    return openFiles(content, fetch);
  }
  throw new SettingsError(`the bundle is ${String(source)}; pass the URL of a folder or .zip, or a .zip's content`);
}

/** The files of a folder behind a URL. */
class Folder {
  /**
   * @param {URL} url
   * @param {string} where
   * @param {typeof globalThis.fetch} fetch
   */
  constructor(url, where, fetch) {
    this.url = new URL(url);
    this.url.pathname = this.url.pathname.replace(/\/?$/, "/");
    this.where = where;
    this.fetch = fetch;
  }

  /**
   * Reads a file.
   *
   * @param {string} name
   * @param {number} most Of a file with more bytes only so much is read that this is known.
   * @param {Arrived} [arrived]
   */
  read(name, most, arrived) {
    const url = new URL(this.url);
    url.pathname += name.split("/").map(encodeURIComponent).join("/");
    return download(url, `${this.where}/${name}`, most, this.fetch, (bytes) => arrived?.(name, bytes));
  }
}

/**
 * Reads a response as it arrives, and no further once it is too long.
 *
 * @param {URL} url
 * @param {string} where
 * @param {number} most
 * @param {typeof globalThis.fetch} fetch
 * @param {(bytes: number) => void} [arrived]
 * @returns {Promise<{content: Uint8Array, size: number}>}
 */
async function download(url, where, most, fetch, arrived) {
  /** @type {(error: unknown) => never} */
  const unreadable = (error) => {
    const cause = error instanceof Error && error.cause ? `: ${reason(error.cause)}` : "";
    throw new BundleError(
      `${where}: cannot be read (${reason(error)}${cause}); check the address and the connection, or copy the bundle` +
        " again from where it came",
      { cause: error },
    );
  };
  const response = await Promise.resolve(url).then(fetch).catch(unreadable);
  if (response.status === 404 || response.status === 410) {
    throw new BundleError(`${where}: missing; pass a whole bundle, a folder or .zip that dmgan-export wrote`);
  }
  if (!response.ok || !response.body) {
    unreadable(new Error(`the server says ${response.status} ${response.statusText}`));
  }
  /** @type {Uint8Array[]} */
  const parts = [];
  let size = 0;
  const reader = response.body.getReader();
  try {
    while (size <= most) {
      const { done, value } = await reader.read().catch(unreadable);
      if (done) break;
      parts.push(value);
      size += value.length;
      arrived?.(value.length);
    }
  } finally {
    await reader.cancel().catch(() => {}); // does nothing at its end
  }
  const content = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    content.set(part, place);
    place += part.length;
  }
  return { content, size };
}

/** @param {Uint8Array} content */
async function digest(content) {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {Uint8Array<ArrayBuffer>} */ (content)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {number} bytes */
function spelled(bytes) {
  return bytes.toLocaleString("en");
}

/**
 * @param {number} bytes
 * @param {number} limit
 * @param {string} where
 */
function checkLimit(bytes, limit, where) {
  if (bytes > limit) {
    throw new BundleError(
      `${where}: ${spelled(bytes)} bytes, and at most ${spelled(limit)} are read; is it a bundle?`,
    );
  }
}

/**
 * Hosts of Git repositories serve pointers in place of the files that Git LFS keeps.
 *
 * @param {Uint8Array} content
 * @param {string} where
 */
function checkNoPointer(content, where) {
  if (new TextDecoder("latin1").decode(content.subarray(0, LFS_POINTER.length)) === LFS_POINTER) {
    throw new BundleError(`${where}: a pointer of Git LFS in place of the file; fetch it with: git lfs pull`);
  }
}
