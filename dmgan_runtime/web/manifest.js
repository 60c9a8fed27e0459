/** The schema of `manifest.json`, read as strictly as docs/bundle.md says. */

import { BundleError, reason, shortened } from "./errors.js";
import { checkInterfaces } from "./graphs.js";
import { MAX_SEED } from "./noise.js";

export const SCHEMA_VERSION = "2.1";
export const MAX_STAGES = 6;

/**
 * Checks a value and returns it with what stood for missing keys; `path` names it, `newer` lets unknown keys pass.
 *
 * @typedef {(value: any, path: string, newer: boolean) => any} Check
 *
 * @typedef {{name: string, dtype: string, shape: (number | "batch")[]}} TensorEntry
 * @typedef {{path: string, bytes: number, sha256: string}} FileEntry
 * @typedef {{role: string, precision: string, file: FileEntry, opset: number, inputs: TensorEntry[],
 *   outputs: TensorEntry[], up_blocks: string | null}} GraphEntry
 * @typedef {{stages: number, base_resolution: number, generator_channels: number, text_features: number,
 *   embedding_features: number, noise_features: number, condition_features: number, memory_features: number,
 *   residual_blocks: number, memory_writing: string, memory_response: string,
 *   condition: string}} ModelSpec
 * @typedef {{schema_version: string, name: string, license: string, model: ModelSpec,
 *   tokenizer: {file: FileEntry, max_words: number, aliases: FileEntry | null}, graphs: GraphEntry[], files: FileEntry[], parity: object[],
 *   image_psnr_db: object, metrics: object, provenance: object,
 *   self_test: {caption: string, seed: number | bigint, thumbnails: Record<string, string>} | null}} Manifest
 */

/** @param {any} value */
function kindOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "int" : "float";
  return { bigint: "int", string: "str", boolean: "bool", object: "object" }[/** @type {string} */ (typeof value)];
}

/**
 * @param {string} message
 * @param {string} path
 * @returns {never}
 */
function refuse(message, path) {
  throw new TypeError(path === "$" ? message : `${message} - at \`${path}\``);
}

/**
 * @param {string} expected
 * @returns {Check}
 */
const kind = (expected) => (value, path) =>
  kindOf(value) === expected ? value : refuse(`Expected \`${expected}\`, got \`${kindOf(value)}\``, path);

const text = kind("str");
const anything = kind("object");

/**
 * @param {number} [least]
 * @param {number} [most]
 * @returns {Check}
 */
const whole = (least, most) => (value, path) => {
  kind("int")(value, path, false);
  if (least !== undefined && value < least) refuse(`Expected \`int\` >= ${least}`, path);
  if (most !== undefined && value > most) refuse(`Expected \`int\` <= ${most}`, path);
  return value;
};

/** @type {Check} */
const number = (value, path) =>
  kindOf(value) === "int" || (kindOf(value) === "float" && Number.isFinite(value))
    ? value
    : refuse(`Expected \`float\`, got \`${kindOf(value)}\``, path);

/**
 * @param {...string} choices
 * @returns {Check}
 */
const oneOf = (...choices) => (value, path) =>
  choices.includes(text(value, path, false)) ? value : refuse(`Invalid enum value '${value}'`, path);

/**
 * @param {Check} check
 * @returns {Check}
 */
const orNull = (check) => (value, path, newer) => (value === null ? null : check(value, path, newer));

/**
 * @param {Check} check
 * @returns {Check}
 */
const list = (check) => (value, path, newer) =>
  kind("array")(value, path, newer).map((/** @type {any} */ each) => check(each, `${path}[...]`, newer));

/**
 * @param {Record<string, Check | [Check, any]>} fields A check, or a check and what a missing key stands for.
 * @param {(value: any) => void} [also] Throws if the fields do not fit each other.
 * @returns {Check}
 */
const object = (fields, also) => (value, path, newer) => {
  anything(value, path, newer);
  for (const key of Object.keys(value)) {
    if (!newer && !Object.hasOwn(fields, key)) refuse(`Object contains unknown field \`${key}\``, path);
  }
  /** @type {Record<string, any>} */
  const read = {};
  for (const [key, field] of Object.entries(fields)) {
    const [check, missing] = Array.isArray(field) ? field : [field];
    if (Object.hasOwn(value, key)) read[key] = check(value[key], `${path}.${key}`, newer);
    else if (Array.isArray(field)) read[key] = missing;
    else refuse(`Object missing required field \`${key}\``, path);
  }
  try {
    also?.(read);
  } catch (error) {
    refuse(reason(error), path);
  }
  return read;
};

/**
 * Whether a path is relative, with forward slashes, without `..`, and so stays inside its bundle.
 *
 * @param {string} path
 */
export function staysInside(path) {
  const parts = path.split("/").filter((part) => part && part !== ".");
  return parts.length > 0 && !path.startsWith("/") && !parts.includes("..") && !/[\\:\0-\x1f]/.test(path);
}

const width = whole(1, 2 ** 16);
const role = oneOf("text_encoder", ...Array.from({ length: MAX_STAGES }, (_, stage) => `generator_${stage}`));
const precision = oneOf("fp32", "fp16", "int8");

const file = object(
  {
    path: text,
    bytes: (value, path, newer) => Number(whole(0)(value, path, newer)),
    sha256: (value, path) =>
      /^[0-9a-f]{64}$/.test(text(value, path, false)) ? value : refuse("Expected `str` of 64 of 0-9 and a-f", path),
  },
  ({ path }) => {
    if (!staysInside(path)) throw new Error(`path '${path}' leaves the bundle; only plain relative paths are allowed`);
  },
);

const tensor = object({
  name: text,
  dtype: oneOf("float32", "int64"),
  shape: list((value, path, newer) => (value === "batch" ? value : whole()(value, path, newer))),
});

const graph = object({
  role,
  precision,
  file,
  opset: whole(),
  inputs: list(tensor),
  outputs: list(tensor),
  up_blocks: [orNull(oneOf("phases", "transposed")), null],
});

const model = object(
  {
    stages: [whole(1, MAX_STAGES), 3],
    base_resolution: [whole(8, 128), 64],
    generator_channels: [width, 64],
    text_features: [width, 256],
    embedding_features: [width, 300],
    noise_features: [width, 100],
    condition_features: [width, 100],
    memory_features: [width, 128],
    residual_blocks: [width, 2],
    memory_writing: [oneOf("gated", "words", "none"), "gated"],
    memory_response: [oneOf("gated", "concatenation"), "gated"],
    condition: [oneOf("sampled", "mean"), "sampled"],
  },
  (spec) => {
    if (spec.base_resolution & (spec.base_resolution - 1)) {
      throw new Error(`base_resolution is ${spec.base_resolution}; use a power of two, such as 16 or 64`);
    }
    if (spec.text_features % 2) {
      throw new Error(`text_features is ${spec.text_features}; use an even number (two LSTM directions)`);
    }
    if (spec.memory_writing === "none" && spec.memory_response === "gated") {
      throw new Error("memory_response 'gated' needs a memory; with memory_writing 'none' use 'concatenation'");
    }
  },
);

const parity = object({
  role,
  precision,
  output: text,
  max_abs_error: number,
  psnr_db: orNull(number),
  tolerance: orNull(number),
  batches: list(whole()),
  required_psnr_db: [orNull(number), null],
});

/** @type {Check} */
const imagePsnr = (value, path, newer) => {
  for (const [key, each] of Object.entries(anything(value, path, newer))) {
    oneOf("fp32", "fp16", "int8", "bf16")(key, `key in ${path}`, newer);
    number(each, `${path}[...]`, newer);
  }
  return value;
};

const selfTest = object(
  {
    caption: text,
    seed: whole(0),
    thumbnails: (value, path, newer) => {
      for (const [key, each] of Object.entries(anything(value, path, newer))) {
        if (!/^[0-9]+$/.test(key)) refuse("Expected `int`, got `str`", `key in ${path}`);
        if (!/^[A-Za-z0-9+/]{256}$/.test(text(each, `${path}[...]`, newer))) {
          refuse("Expected base64 of 192 bytes", `${path}[...]`);
        }
      }
      return value;
    },
  },
  ({ seed }) => {
    if (seed > MAX_SEED) throw new Error(`self_test has the seed ${seed}; seeds go up to ${MAX_SEED}`);
  },
);

const manifest = object(
  {
    schema_version: text,
    name: text,
    license: text,
    model,
    tokenizer: object({ file, max_words: whole(1, 512), aliases: [orNull(file), null] }),
    graphs: list(graph),
    files: [list(file), []],
    parity: [list(parity), []],
    image_psnr_db: [imagePsnr, {}],
    metrics: [anything, {}],
    provenance: [anything, {}],
    self_test: [orNull(selfTest), null],
  },
  (read) => {
    const kinds = new Map();
    for (const { role: name, precision: kind } of read.graphs) {
      if (name !== "text_encoder" && Number(name.slice("generator_".length)) >= read.model.stages) {
        throw new Error(`there is a graph ${name}, and a model of ${read.model.stages} stages has none`);
      }
      const key = `${name} graphs in ${kind}`;
      kinds.set(key, (kinds.get(key) ?? 0) + 1);
    }
    for (const [key, count] of kinds) {
      if (count > 1) throw new Error(`there are ${count} ${key}; a bundle has one of a kind`);
    }
    const sides = Object.keys(read.self_test?.thumbnails ?? {});
    if (read.self_test && sides.sort().join() !== resolutions(read.model).map(String).sort().join()) {
      throw new Error(`self_test has thumbnails of ${sides}, and the model generates ${resolutions(read.model)}`);
    }
  },
);

/**
 * The sides of the images in pixels, smallest first.
 *
 * @param {ModelSpec} spec
 * @returns {number[]}
 */
export function resolutions(spec) {
  return Array.from({ length: spec.stages }, (_, stage) => spec.base_resolution << stage);
}

/**
 * Reads a manifest strictly; of a newer minor version, what this one knows of it.
 *
 * @param {Uint8Array} content
 * @param {string} where Names the file in messages.
 * @returns {Manifest}
 */
export function parseManifest(content, where) {
  /** @type {any} */
  let value;
  try {
    value = parseJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content));
  } catch (error) {
    throw new BundleError(
      `${where}: not a valid manifest (${reason(error)}); copy the bundle again from where it came, or export the` +
        " bundle again",
    );
  }
  let newer = false;
  try {
    const found = Object.hasOwn(anything(value, "$", false), "schema_version") ? value.schema_version : "missing";
    const [, major, minor] = /^(\d{1,9})\.(\d{1,9})$/.exec(text(found, "$.schema_version", false)) ?? [];
    const [ours, level] = SCHEMA_VERSION.split(".").map(Number);
    if (major === undefined || Number(major) !== ours) {
      throw new BundleError(
        `${where}: schema version ${shortened(found)}, and this dmgan reads ${SCHEMA_VERSION}; upgrade dmgan or export the bundle` +
          " again",
      );
    }
    newer = Number(minor) > level;
    const read = manifest(value, "$", newer);
    checkInterfaces(read, where);
    return read;
  } catch (error) {
    if (error instanceof BundleError) throw error;
    if (newer) {
      throw new BundleError(
        `${where}: schema version ${value.schema_version} is newer than ${SCHEMA_VERSION}, which this dmgan reads, and` +
          ` it cannot make do with what it knows of it (${reason(error)}); upgrade dmgan`,
      );
    }
    throw new BundleError(`${where}: not a valid manifest (${reason(error)}); export the bundle again`);
  }
}

const JSON_TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/gs;

/**
 * Parses JSON in which whole numbers of 16 digits and more become BigInts: a seed may have 64 bits, and `JSON.parse`
 * alone would round it. Halves of characters, which no UTF-8 has, are refused.
 *
 * @param {string} text
 * @returns {any}
 */
export function parseJson(text) {
  const mark = crypto.randomUUID(); // so no text of the file is taken for a number
  const marked = text.replace(JSON_TOKEN, (token) => (/^-?[1-9]\d{15,}$/.test(token) ? `"${mark}${token}"` : token));
  return JSON.parse(marked, (key, value) => {
    if (/\p{Cs}/u.test(key) || (typeof value === "string" && /\p{Cs}/u.test(value))) {
      throw new SyntaxError("half of a surrogate pair");
    }
    return typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value;
  });
}
