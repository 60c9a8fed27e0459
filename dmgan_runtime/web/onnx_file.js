/**
 * Whether an ONNX file is one that `dmgan-export` may have written; asked before the engine sees it, which does what a
 * file says. docs/bundle.md, "Open it", has the rules.
 */

import { EngineError, reason } from "./errors.js";

const OPERATORS = new Set(
  (
    "Add Cast Clip Concat Conv ConvTranspose DepthToSpace DequantizeLinear Div Exp Gather Gemm LSTM Less MatMul Mul" +
    " Not Pad QuantizeLinear ReduceMean Relu Reshape Sigmoid Softmax Split Squeeze Sub Tanh Transpose Unsqueeze Where"
  ).split(" "),
);

/** The messages of onnx.proto that an exported file has, each with the fields that lead to others. */
const CHILDREN = /** @type {Record<string, Record<number, string>>} */ ({
  model: { 7: "graph" },
  graph: { 1: "node", 5: "tensor" },
  node: { 5: "attribute" },
  attribute: {},
  tensor: {},
});
/** Further fields that hold graphs or tensors: training and functions of a model, sparse tensors, attributes. */
const STRANGE = /** @type {Record<string, number[]>} */ ({
  model: [20, 25],
  graph: [15],
  attribute: [5, 6, 10, 11, 22, 23],
});
const [OP_TYPE, DOMAIN] = [4, 7];
const [EXTERNAL_DATA, DATA_LOCATION] = [13, 14];
// Where it stands, ONNX Runtime reads the file as one of its own format, in which nothing here would be looked at.
const [ORT_FORMAT, ORT_FORMAT_PLACE] = ["ORTM", 4];

/**
 * Refuses an ONNX file that keeps weights elsewhere, or has operators or parts that no exported one has. Weights inside
 * are skipped, so this takes no time.
 *
 * @param {Uint8Array} content
 * @param {string} where Names it in messages.
 */
export function checkOnnxFile(content, where) {
  try {
    if (new TextDecoder("latin1").decode(content.subarray(ORT_FORMAT_PLACE, 2 * ORT_FORMAT_PLACE)) === ORT_FORMAT) {
      throw new Error("it says that it is one of ONNX Runtime's own format");
    }
    check(content, 0, content.length, "model", where);
  } catch (error) {
    if (error instanceof EngineError) throw error;
    throw new EngineError(
      `${where}: cannot be loaded, because it is not an ONNX file (${reason(error)}); export the bundle again`,
    );
  }
}

/**
 * @param {Uint8Array} content
 * @param {number} position
 * @param {number} end
 * @param {string} message
 * @param {string} where
 */
function check(content, position, end, message, where) {
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
    if (![0, 1, 2, 5].includes(kind)) throw new Error(`it has a field of the kind ${kind}`);
    const value = kind === 0 || kind === 2 ? varint() : 0n;
    const start = position;
    position += { 0: 0, 1: 8, 2: Number(value), 5: 4 }[kind] ?? 0;
    if (kind === 1 || kind === 5) continue;
    const external = number === EXTERNAL_DATA || (number === DATA_LOCATION && (kind === 2 || value !== 0n));
    if (message === "tensor" && external) {
      throw new EngineError(
        `${where}: keeps weights in another file; export the bundle again, with all weights inside`,
      );
    }
    if (STRANGE[message]?.includes(number)) throw strange(where, "graphs or tensors in a place");
    if (kind !== 2) continue;
    if (message === "node" && (number === OP_TYPE || number === DOMAIN)) {
      const name = new TextDecoder().decode(content.subarray(start, position));
      if (number === OP_TYPE ? !OPERATORS.has(name) : name) {
        const what = number === OP_TYPE ? "operator" : "domain";
        throw strange(where, `the ${what} '${name.slice(0, 40)}',`);
      }
    }
    const child = CHILDREN[message][number];
    if (child) check(content, start, position, child, where);
  }
  if (position !== end) throw new Error("a field ends beyond its message");
}

/**
 * @param {string} where
 * @param {string} what
 */
function strange(where, what) {
  return new EngineError(
    `${where}: has ${what} that no graph by dmgan-export has, so no engine is given it; export the bundle again with` +
      " this version of dmgan",
  );
}
