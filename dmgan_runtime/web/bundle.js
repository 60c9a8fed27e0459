/** A bundle: a folder behind a URL, or one .zip. Its files are proven by size and SHA-256 before anything uses them. */

import { BackendError, BundleError, reason, SettingsError } from "./errors.js";
import { parseManifest } from "./manifest.js";
import { checkSelfContained } from "./onnx_file.js";
import { Tokenizer } from "./tokenizer.js";
import { Zip } from "./zip.js";

export const MAX_MANIFEST_BYTES = 16 * 2 ** 20;
export const MAX_VOCABULARY_BYTES = 16 * 2 ** 20;
export const MAX_FILE_BYTES = 2 * 2 ** 30;

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
    const content = await files.read("manifest.json", MAX_MANIFEST_BYTES, (bytes) => {
      checkLimit(bytes, MAX_MANIFEST_BYTES, name);
    });
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
    const again = "copy the bundle again from where it came";
    const content = await this.#files.read(
      entry.path,
      Math.min(limit, entry.bytes),
      (bytes) => {
        if (bytes !== entry.bytes) {
          const [found, said] = [bytes, entry.bytes].map((each) => each.toLocaleString("en"));
          throw new BundleError(
            `${where}: damaged or replaced: it has ${found} bytes, the manifest says ${said}; ${again}`,
          );
        }
        checkLimit(bytes, limit, where);
      },
      arrived,
    );
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {any} */ (content)));
    const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (sha256 !== entry.sha256) {
      throw new BundleError(
        `${where}: damaged or replaced: its SHA-256 is ${sha256}, the manifest says ${entry.sha256}; ${again}`,
      );
    }
    return content;
  }

  /**
   * Reads a graph, and refuses one that keeps weights in another file.
   *
   * @param {GraphEntry} graph
   * @param {Arrived} [arrived]
   */
  async graph(graph, arrived) {
    const content = await this.read(graph.file, MAX_FILE_BYTES, arrived);
    checkSelfContained(content, `${this.where}/${graph.file.path}`);
    return content;
  }

  /** @param {Arrived} [arrived] */
  async tokenizer(arrived) {
    const entry = this.manifest.tokenizer.file;
    return Tokenizer.fromJson(await this.read(entry, MAX_VOCABULARY_BYTES, arrived), `${this.where}/${entry.path}`);
  }
}

/**
 * @param {BundleSource} source
 * @param {typeof globalThis.fetch} fetch
 */
async function openFiles(source, fetch) {
  if (typeof source === "string" || source instanceof URL) {
    const base = globalThis.document?.baseURI ?? globalThis.location?.href;
    const url = URL.canParse(source, base) ? new URL(source, base) : null;
    if (!url) throw new BundleError(`${source}: no URL; pass that of a bundle's folder or .zip`);
    const where = decodeURI(url.href).replace(/\/$/, "");
    if (!url.pathname.endsWith(".zip")) return { files: new Folder(url, where, fetch), where };
    const check = (/** @type {number} */ bytes) => checkLimit(bytes, MAX_FILE_BYTES, where);
    return { files: new Zip(await download(url, where, MAX_FILE_BYTES, check, fetch), where), where };
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
   * @param {number} most How many bytes are read at most.
   * @param {(bytes: number) => void} checkSize Throws for a size that is not wanted; more than `most` never is.
   * @param {Arrived} [arrived]
   */
  read(name, most, checkSize, arrived) {
    const url = new URL(this.url);
    url.pathname += name.split("/").map(encodeURIComponent).join("/");
    const where = `${this.where}/${name}`;
    return download(url, where, most, checkSize, this.fetch, (bytes) => arrived?.(name, bytes));
  }
}

/**
 * Reads a response as it arrives, and no further once it is too long.
 *
 * @param {URL} url
 * @param {string} where
 * @param {number} most
 * @param {(bytes: number) => void} checkSize
 * @param {typeof globalThis.fetch} fetch
 * @param {(bytes: number) => void} [arrived]
 * @returns {Promise<Uint8Array>}
 */
async function download(url, where, most, checkSize, fetch, arrived) {
  /** @type {Uint8Array[]} */
  const parts = [];
  let size = 0;
  try {
    const response = await fetch(url);
    if (response.status === 404 || response.status === 410) {
      throw new BundleError(`${where}: missing; pass a whole bundle, a folder or .zip that dmgan-export wrote`);
    }
    if (!response.ok || !response.body) throw new Error(`the server says ${response.status} ${response.statusText}`);
    const declared = response.headers.get("content-length");
    // A compressed response declares the size that it has on the wire.
    if (declared && !response.headers.get("content-encoding")) checkSize(Number(declared));
    const reader = response.body.getReader();
    for (let step = await reader.read(); !step.done && size <= most; step = await reader.read()) {
      parts.push(step.value);
      size += step.value.length;
      arrived?.(step.value.length);
    }
    await reader.cancel();
  } catch (error) {
    if (error instanceof BundleError) throw error;
    const cause = error instanceof Error && error.cause ? `: ${reason(error.cause)}` : "";
    throw new BundleError(
      `${where}: cannot be read (${reason(error)}${cause}); check the address and the connection, or copy the bundle` +
        " again from where it came",
      { cause: error },
    );
  }
  checkSize(size);
  const content = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    content.set(part, place);
    place += part.length;
  }
  return content;
}

/**
 * @param {number} bytes
 * @param {number} limit
 * @param {string} where
 */
function checkLimit(bytes, limit, where) {
  if (bytes > limit) {
    const [found, most] = [bytes, limit].map((each) => each.toLocaleString("en"));
    throw new BundleError(`${where}: ${found} bytes, and at most ${most} are read; is it a bundle?`);
  }
}
