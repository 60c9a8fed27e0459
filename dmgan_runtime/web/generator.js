/** What users hold: an open model that makes images of captions. */

import { Bundle } from "./bundle.js";
import { Engine } from "./engine.js";
import { BackendError, BundleError, CaptionError, EngineError, SettingsError } from "./errors.js";
import { graphInterface, roles } from "./graphs.js";
import { blendTexts, slerp } from "./interpolation.js";
import { resolutions } from "./manifest.js";
import { checkSeed, checkTruncation, drawNoise, freshSeed } from "./noise.js";

const EVERYTHING = ["image", "attention", "writing_gate", "response_gate"];
const PASSED_ON = ["word_features", "sentence_feature", "features"];

/**
 * @typedef {import("./index.js").OpenOptions} OpenOptions
 * @typedef {import("./index.js").GenerationOptions} GenerationOptions
 * @typedef {import("./index.js").Generation} Generation
 * @typedef {import("./index.js").Picture} Picture
 * @typedef {import("./tokenizer.js").Encoding} Encoding
 * @typedef {import("./interpolation.js").TextFeatures} TextFeatures
 * @typedef {import("./engine.js").Tensors} Tensors
 * @typedef {{seed: bigint, stages: number, attention: boolean, truncation: number,
 *   condition: string}} Checked Options that were checked.
 */

/** A DM-GAN that is ready to make images; `open` makes one. */
export class Generator {
  #engine;

  /**
   * Use `open`; this takes parts that have been loaded.
   *
   * @param {import("./manifest.js").Manifest} manifest
   * @param {import("./tokenizer.js").Tokenizer} tokenizer
   * @param {Engine} engine
   */
  constructor(manifest, tokenizer, engine) {
    this.manifest = manifest;
    this.vocabulary = tokenizer.words;
    this.aliases = tokenizer.aliases;
    this.resolutions = resolutions(manifest.model);
    this.active = { device: engine.device, threads: engine.threads, version: engine.version };
    this.encode = (/** @type {string} */ caption) => tokenizer.encode(caption, manifest.tokenizer.max_words);
    this.#engine = engine;
  }

  /**
   * Checks a bundle and loads its graphs.
   *
   * @param {import("./bundle.js").BundleSource} source
   * @param {OpenOptions} [options]
   * @returns {Promise<Generator>}
   */
  static async open(source, options = {}) {
    const { device = "wasm", precision = "fp32", threads, runtime, onProgress, fetch = globalThis.fetch } = options;
    const opening = Engine.open(device, threads, runtime);
    opening.catch(() => {}); // told below, after what is wrong with the bundle
    const bundle = await Bundle.open(source, (...request) => fetch(...request));
    const { manifest } = bundle;
    const graphs = roles(manifest.model).map((role) => findGraph(manifest, role, precision, bundle.where));
    const files = [manifest.tokenizer.file, manifest.tokenizer.aliases, ...graphs.map(({ file }) => file)];
    const total = files.reduce((sum, file) => sum + (file?.bytes ?? 0), 0);
    let loaded = 0;
    const arrived = (/** @type {string} */ path, /** @type {number} */ bytes) => {
      loaded += bytes;
      onProgress?.({ loaded, total, path });
    };
    const tokenizer = await bundle.tokenizer(arrived);
    const engine = await opening;
    try {
      for (const graph of graphs) {
        await engine.load(graph, await bundle.graph(graph, arrived), `${bundle.where}/${graph.file.path}`);
      }
    } catch (error) {
      await engine.close();
      throw error;
    }
    return new Generator(manifest, tokenizer, engine);
  }

  /**
   * Makes one image.
   *
   * @param {string} caption
   * @param {GenerationOptions} [options]
   * @returns {Promise<Generation>}
   */
  async generate(caption, options = {}) {
    let last;
    for await (const stage of this.stream(caption, options)) last = stage;
    return /** @type {Generation} */ (last);
  }

  /**
   * Makes one image, and hands out each stage as soon as it is there; leave the loop, and the rest is never computed.
   *
   * @param {string} caption
   * @param {GenerationOptions} [options]
   * @returns {AsyncGenerator<Generation, void>}
   */
  stream(caption, options = {}) {
    const request = { caption, encoding: this.encode(caption), ...this.#check(options) };
    return this.#stream(request);
  }

  /**
   * Makes the images between two: from caption to caption, from seed to seed, or both at once.
   *
   * @param {string | [string, string]} captions One, or the first and the last.
   * @param {import("./index.js").InterpolationOptions} [options]
   * @returns {AsyncGenerator<Picture, void>}
   */
  interpolate(captions, { seeds, steps = 8, ...options } = {}) {
    const [first, last] = pair(captions, (each) => typeof each === "string");
    if (first === undefined) {
      throw new CaptionError(`captions are ${String(captions)}; pass one, or the first and the last: [a, b]`);
    }
    if (!Number.isInteger(steps) || steps < 2) {
      throw new SettingsError(`steps is ${String(steps)}; pass a whole number, at least 2`);
    }
    const [seed, lastSeed] = pair(seeds, (each) => each !== undefined);
    if (seeds !== undefined && seed === undefined) {
      throw new SettingsError(`seeds are ${String(seeds)}; pass one seed, or the first and the last: [a, b]`);
    }
    for (const name of Object.keys(options)) {
      if (["resolution", "truncation", "condition"].includes(name)) continue;
      throw new SettingsError(`there is no option ${name}; pass seeds, steps, resolution, truncation or condition`);
    }
    const checked = this.#check({ ...options, seed });
    const noises = [checked.seed, lastSeed === undefined ? checked.seed : checkSeed(lastSeed)];
    return this.#interpolate([this.encode(first), this.encode(last)], noises, steps, checked);
  }

  /** Frees the memory of the graphs; what is being computed is finished first. */
  async close() {
    await this.#engine.close();
  }

  /**
   * @param {GenerationOptions} options
   * @returns {Checked}
   */
  #check({ seed, resolution, attention = false, truncation = 1, condition = undefined, ...unknown }) {
    for (const name of Object.keys(unknown)) {
      throw new SettingsError(`there is no option ${name}; pass seed, resolution, attention, truncation or condition`);
    }
    const stages = resolution === undefined ? this.resolutions.length : this.resolutions.indexOf(resolution) + 1;
    if (!stages) {
      const choices = this.resolutions.join(", ");
      throw new SettingsError(
        `resolution ${String(resolution)} is not one of this model's; pass one of ${choices}`,
      );
    }
    if (typeof attention !== "boolean") {
      throw new SettingsError(`attention is ${String(attention)}; pass true or false`);
    }
    if (condition !== undefined && condition !== "sampled" && condition !== "mean") {
      throw new SettingsError(`condition is ${String(condition)}; pass "sampled" or "mean", or leave it out`);
    }
    return {
      seed: seed === undefined ? freshSeed() : checkSeed(seed),
      stages,
      attention,
      truncation: checkTruncation(truncation),
      condition: condition ?? this.manifest.model.condition,
    };
  }

  /** @param {{caption: string, encoding: Encoding} & Checked} request */
  async *#stream({ caption, encoding, seed, stages, attention, truncation, condition }) {
    const text = await this.#encodeText(encoding);
    const { words, unknownWords, cutWords } = encoding;
    const generation = /** @type {Generation} */ ({ caption, seed, words, unknownWords, cutWords });
    generation.stages = new Map();
    generation.attention = attention ? new Map() : null;
    generation.gates = attention ? new Map() : null;
    for await (const { resolution, outputs } of this.#run(text, this.#noise(seed, truncation, condition), stages, attention)) {
      generation.image = toPicture(floats(outputs.image), resolution);
      generation.stages = new Map(generation.stages).set(resolution, generation.image);
      if (outputs.attention) {
        const side = resolution / 2;
        const maps = floats(outputs.attention);
        generation.attention = new Map(generation.attention).set(resolution, {
          side,
          maps: words.map((_, word) => maps.slice(word * side * side, (word + 1) * side * side)),
        });
        generation.gates = new Map(generation.gates).set(resolution, {
          writing: outputs.writing_gate ? floats(outputs.writing_gate).slice(0, words.length) : null,
          response: outputs.response_gate ? floats(outputs.response_gate) : null,
        });
      }
      yield { ...generation };
    }
  }

  /**
   * @param {Encoding[]} ends
   * @param {bigint[]} seeds
   * @param {number} steps
   * @param {Checked} options
   */
  async *#interpolate(ends, seeds, steps, { stages, truncation, condition }) {
    const [first, last] = [await this.#encodeText(ends[0]), await this.#encodeText(ends[1])];
    const [start, end] = seeds.map((seed) => this.#noise(seed, truncation, condition));
    for (let step = 0; step < steps; step++) {
      const position = step / (steps - 1);
      const noise = {
        noise: slerp(start.noise, end.noise, position),
        conditionNoise: slerp(start.conditionNoise, end.conditionNoise, position),
      };
      for await (const { resolution, outputs } of this.#run(blendTexts(first, last, position), noise, stages, false)) {
        if (resolution === this.resolutions[stages - 1]) yield toPicture(floats(outputs.image), resolution);
      }
    }
  }

  /**
   * @param {bigint} seed
   * @param {number} truncation
   * @param {string} condition
   */
  #noise(seed, truncation, condition) {
    const { noise_features: noiseFeatures, condition_features: conditionFeatures } = this.manifest.model;
    const noises = drawNoise(seed, noiseFeatures, conditionFeatures, truncation);
    if (condition === "mean") noises.conditionNoise.fill(0);
    return noises;
  }

  /**
   * @param {Encoding} encoding
   * @returns {Promise<TextFeatures>}
   */
  async #encodeText({ tokens, length }) {
    const inputs = { tokens: this.#tensor(tokens), lengths: this.#tensor(BigInt64Array.of(BigInt(length)), []) };
    const outputs = await this.#engine.run("text_encoder", inputs, ["word_features", "sentence_feature"]);
    return { words: floats(outputs.word_features), sentence: floats(outputs.sentence_feature), length };
  }

  /**
   * Runs the stages one after the other, each when the iterator is asked for it.
   *
   * @param {TextFeatures} text
   * @param {{noise: Float32Array, conditionNoise: Float32Array}} noise
   * @param {number} stages
   * @param {boolean} attention
   * @returns {AsyncGenerator<{resolution: number, outputs: Tensors}>}
   */
  async *#run(text, { noise, conditionNoise }, stages, attention) {
    const { model, tokenizer } = this.manifest;
    const atHand = /** @type {Tensors} */ ({
      word_features: this.#tensor(text.words, [model.text_features, tokenizer.max_words]),
      sentence_feature: this.#tensor(text.sentence),
      lengths: this.#tensor(BigInt64Array.of(BigInt(text.length)), []),
      noise: this.#tensor(noise),
      condition_noise: this.#tensor(conditionNoise),
    });
    const wanted = attention ? EVERYTHING : ["image"];
    for (let stage = 0; stage < stages; stage++) {
      const role = `generator_${stage}`;
      const { inputs, outputs } = graphInterface(role, model, tokenizer.max_words);
      const names = outputs
        .map(({ name }) => name)
        .filter((name) => wanted.includes(name) || (PASSED_ON.includes(name) && stage < stages - 1));
      const given = Object.fromEntries(inputs.map(({ name }) => [name, atHand[name]]));
      const results = await this.#engine.run(role, given, names);
      if (!floats(results.image).every(Number.isFinite)) {
        throw new EngineError(
          `${this.active.device} returned an image of ${this.resolutions[stage]} pixels with values that are no` +
            " numbers; use another device",
        );
      }
      yield { resolution: this.resolutions[stage], outputs: results };
      if (results.features) atHand.previous_features = results.features;
    }
  }

  /**
   * One row of a batch of one.
   *
   * @param {Float32Array | BigInt64Array} data
   * @param {number[]} [shape]
   * @returns {import("onnxruntime-common").Tensor}
   */
  #tensor(data, shape = [data.length]) {
    return new this.#engine.runtime.Tensor(data instanceof Float32Array ? "float32" : "int64", data, [1, ...shape]);
  }
}

/**
 * The graph of a role; the text encoder is taken in fp32 where it is in nothing else.
 *
 * @param {import("./manifest.js").Manifest} manifest
 * @param {string} role
 * @param {string} precision
 * @param {string} where
 */
function findGraph(manifest, role, precision, where) {
  const graphs = manifest.graphs.filter((graph) => graph.role === role);
  const accepted = role === "text_encoder" ? [precision, "fp32"] : [precision];
  for (const each of accepted) {
    const graph = graphs.find((candidate) => candidate.precision === each);
    if (graph) return graph;
  }
  if (!graphs.length) throw new BundleError(`${where}: has no ${role} graph; export the bundle again`);
  const present = graphs.map((graph) => graph.precision).join(", ");
  throw new BackendError(`${where}: has no ${role} in ${String(precision)}; pass precision ${present}`);
}

/**
 * @param {any} value One thing, or two in an array.
 * @param {(each: any) => boolean} isOne
 * @returns {any[]} Two things, or none.
 */
function pair(value, isOne) {
  const both = Array.isArray(value) ? value : [value, value];
  return both.length === 2 && both.every(isOne) ? both : [];
}

/** @param {import("onnxruntime-common").Tensor} tensor */
function floats(tensor) {
  return /** @type {Float32Array} */ (tensor.data);
}

/**
 * Turns an image of the generator into a picture: clipped to [-1, 1], and rounded to levels in float32, halves to even.
 *
 * @param {Float32Array} image [3, R, R]
 * @param {number} side R
 * @returns {Picture}
 */
function toPicture(image, side) {
  const data = new Uint8ClampedArray(side * side * 4).fill(255); // it clips, and rounds halves to even
  for (let channel = 0; channel < 3; channel++) {
    const plane = image.subarray(channel * side * side, (channel + 1) * side * side);
    plane.forEach((value, pixel) => (data[4 * pixel + channel] = Math.fround(Math.fround(value + 1) * 127.5)));
  }
  return { width: side, height: side, data };
}
