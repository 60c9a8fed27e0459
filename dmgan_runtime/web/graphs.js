/** The contract of the graphs: what goes in and out of each. docs/bundle.md, "The graphs", has the table. */

import { BundleError, shortened } from "./errors.js";

/**
 * @typedef {import("./manifest.js").ModelSpec} ModelSpec
 * @typedef {import("./manifest.js").TensorEntry} TensorEntry
 */

/**
 * Every graph, in the order in which they run.
 *
 * @param {ModelSpec} spec
 * @returns {string[]}
 */
export function roles(spec) {
  return ["text_encoder", ...Array.from({ length: spec.stages }, (_, stage) => `generator_${stage}`)];
}

/**
 * The inputs and outputs of one graph.
 *
 * @param {string} role
 * @param {ModelSpec} spec
 * @param {number} maxWords T, the words of a caption.
 * @returns {{inputs: TensorEntry[], outputs: TensorEntry[]}}
 */
export function graphInterface(role, spec, maxWords) {
  /**
   * @param {string} name
   * @param {...number} shape
   * @returns {TensorEntry}
   */
  const floats = (name, ...shape) => ({ name, dtype: "float32", shape: ["batch", ...shape] });
  const words = floats("word_features", spec.text_features, maxWords);
  const sentence = floats("sentence_feature", spec.text_features);
  const lengths = { ...floats("lengths"), dtype: "int64" };
  if (role === "text_encoder") {
    return { inputs: [{ ...floats("tokens", maxWords), dtype: "int64" }, lengths], outputs: [words, sentence] };
  }
  const stage = roles(spec).indexOf(role) - 1;
  const side = spec.base_resolution << stage;
  const outputs = [floats("image", 3, side, side)];
  if (stage < spec.stages - 1) outputs.push(floats("features", spec.generator_channels, side, side));
  if (stage === 0) {
    const noise = floats("noise", spec.noise_features);
    return { inputs: [sentence, noise, floats("condition_noise", spec.condition_features)], outputs };
  }
  const previous = side / 2;
  outputs.push(floats("attention", maxWords, previous, previous));
  if (spec.memory_writing === "gated") outputs.push(floats("writing_gate", maxWords));
  if (spec.memory_response === "gated") outputs.push(floats("response_gate", 1, previous, previous));
  return {
    inputs: [floats("previous_features", spec.generator_channels, previous, previous), words, lengths],
    outputs,
  };
}

/**
 * Checks that every graph of a manifest has the interface that its model asks for.
 *
 * @param {import("./manifest.js").Manifest} manifest
 * @param {string} where
 */
export function checkInterfaces(manifest, where) {
  for (const graph of manifest.graphs) {
    const expected = graphInterface(graph.role, manifest.model, manifest.tokenizer.max_words);
    for (const part of /** @type {const} */ (["inputs", "outputs"])) {
      checkTensors(graph[part], expected[part], `${where}: graph ${graph.file.path}, ${part}`);
    }
  }
}

/**
 * Checks that tensors are those that are wanted, in any order.
 *
 * @param {TensorEntry[]} tensors
 * @param {TensorEntry[]} expected
 * @param {string} where Names them in messages.
 */
export function checkTensors(tensors, expected, where) {
  const [found, wanted] = [tensors.map(describe), expected.map(describe)];
  if ([...found].sort().join() !== [...wanted].sort().join()) {
    throw new BundleError(
      `${where}: found ${shortened(found.join(", ") || "none")}, but expected ${wanted.join(", ")}; export the bundle` +
        " again with this version of dmgan",
    );
  }
}

/** @param {TensorEntry} tensor */
function describe({ name, dtype, shape }) {
  return `${name} ${dtype}[${shape.join(", ")}]`;
}
