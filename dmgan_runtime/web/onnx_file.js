/** Whether an ONNX file is whole: one that keeps weights in other files is refused, since no hash vouches for those. */

import { BundleError, reason } from "./errors.js";

/** The messages of onnx.proto that can hold a tensor, each with the fields that lead to one. */
const CHILDREN = /** @type {Record<string, Record<number, string>>} */ ({
  model: { 7: "graph", 20: "training", 25: "function" },
  training: { 1: "graph", 2: "graph" },
  function: { 7: "node", 11: "attribute" },
  graph: { 1: "node", 5: "tensor", 15: "sparse_tensor" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor" },
  sparse_tensor: { 1: "tensor", 2: "tensor" },
  tensor: {},
});
const EXTERNAL_DATA = 13;
const DATA_LOCATION = 14;
const MAX_DEPTH = 100;

/**
 * Refuses an ONNX file that keeps weights elsewhere. Weights inside are skipped, so this takes no time.
 *
 * @param {Uint8Array} content
 * @param {string} where Names it in messages.
 */
export function checkSelfContained(content, where) {
  try {
    check(content, 0, content.length, "model", 0, where);
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(
      `${where}: cannot be loaded, because it is not an ONNX file (${reason(error)}); export the bundle again`,
    );
  }
}

/**
 * @param {Uint8Array} content
 * @param {number} position
 * @param {number} end
 * @param {string} message
 * @param {number} depth
 * @param {string} where
 */
function check(content, position, end, message, depth, where) {
  if (depth > MAX_DEPTH) throw new Error(`it is nested over ${MAX_DEPTH} deep`);
  const varint = () => {
    let value = 0n;
    for (let place = 0n; place < 10n; place++) {
      if (position >= content.length) throw new Error("it ends in a number");
      const byte = content[position++];
      value |= BigInt(byte & 0x7f) << (7n * place);
      if (byte < 0x80) return value;
    }
    throw new Error("a number does not end");
  };
  while (position < end) {
    const key = varint();
    if (key > 0xffffffffn) throw new Error("a field's number is too large");
    const [number, kind] = [Number(key >> 3n), Number(key & 7n)];
    let value = 0n;
    let start = 0;
    if (kind === 0) {
      value = varint();
    } else if (kind === 2) {
      value = varint();
      start = position;
      position += Number(value);
    } else if (kind === 1 || kind === 5) {
      position += kind === 5 ? 4 : 8;
    } else {
      throw new Error(`it has a field of the kind ${kind}`);
    }
    if (position > content.length) throw new Error("a field ends beyond the file");
    const external = number === EXTERNAL_DATA || (number === DATA_LOCATION && (kind !== 0 || value !== 0n));
    if (message === "tensor" && external) {
      throw new BundleError(
        `${where}: keeps weights in another file; export the bundle again, with all weights inside`,
      );
    }
    const child = CHILDREN[message][number];
    if (kind === 2 && child) check(content, start, position, child, depth + 1, where);
  }
  if (position !== end) throw new Error("a field ends beyond its message");
}
