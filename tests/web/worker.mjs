// Runs dmgan_runtime/web for Python's tests: one JSON request a line, one JSON answer a line.
import { readFile, stat } from "node:fs/promises";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, modules] = process.argv.slice(2).map((path) => pathToFileURL(`${path}/`));
const load = (name) => import(new URL(name, module));
const [{ Generator, drawNoise }, { Bundle }, { parseManifest }, { Tokenizer }, { checkOnnxFile }, errors] =
  await Promise.all(["index.js", "bundle.js", "manifest.js", "tokenizer.js", "onnx_file.js", "errors.js"].map(load));
const generators = new Map();

const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));

/** A folder of this machine as a web server would show it. */
async function fetchFile(url) {
  try {
    return new Response(await readFile(url));
  } catch {
    return new Response("not found", { status: 404 });
  }
}

/** A folder by its URL, a .zip by its content; http as it is. */
async function source(path) {
  if (path.startsWith("http")) return [path, globalThis.fetch];
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? [await readFile(path), undefined] : [pathToFileURL(path), fetchFile];
}

function describe(generation) {
  const floats = (map) => Object.fromEntries([...(map ?? [])].map(([side, { maps }]) => [side, maps.map(base64)]));
  const gates = [...(generation.gates ?? [])].map(([side, { writing, response }]) => [
    side,
    [writing && base64(writing), response && base64(response)],
  ]);
  return {
    seed: String(generation.seed),
    side: generation.image.width,
    stages: Object.fromEntries([...generation.stages].map(([side, picture]) => [side, base64(picture.data)])),
    words: generation.words,
    unknown_words: generation.unknownWords,
    cut_words: generation.cutWords,
    attention: generation.attention && floats(generation.attention),
    gates: generation.gates && Object.fromEntries(gates),
  };
}

function withSeeds({ seed, seeds, ...options }) {
  const whole = (text) => (typeof text === "string" && /^-?\d+$/.test(text) ? BigInt(text) : text);
  if (seed !== undefined) options.seed = whole(seed);
  if (seeds !== undefined) options.seeds = Array.isArray(seeds) ? seeds.map(whole) : whole(seeds);
  return options;
}

const operations = {
  async open({ path, options = {}, telling }) {
    const [from, fetch] = await source(path);
    const runtime = () => import(new URL("onnxruntime-web/dist/ort.node.min.mjs", modules));
    const progress = [];
    const onProgress = (each) => {
      if (telling) throw new Error(telling);
      progress.push(each);
    };
    const generator = await Generator.open(from, { runtime, onProgress, ...(fetch && { fetch }), ...options });
    const id = generators.size;
    generators.set(id, generator);
    const { active, resolutions, vocabulary, manifest } = generator;
    return { id, active, resolutions, words: vocabulary.length, name: manifest.name, progress };
  },
  async read_everything({ path }) {
    const [from, fetch] = await source(path);
    const bundle = await Bundle.open(from, fetch ?? globalThis.fetch);
    await bundle.tokenizer();
    for (const graph of bundle.manifest.graphs) await bundle.graph(graph);
    return bundle.manifest;
  },
  encode: ({ id, caption }) => {
    const { tokens, length, words, unknownWords, cutWords } = generators.get(id).encode(caption);
    return { tokens: Array.from(tokens, Number), length, words, unknown_words: unknownWords, cut_words: cutWords };
  },
  encode_with: ({ vocabulary, aliases = {}, caption, max_words }) => {
    const { tokens, ...rest } = new Tokenizer(vocabulary, Object.entries(aliases)).encode(caption, max_words);
    return { tokens: Array.from(tokens, Number), ...rest };
  },
  split_with: ({ vocabulary, aliases, caption }) =>
    Array.from(new Tokenizer(vocabulary, Object.entries(aliases)).split(caption), ({ text, name }) => [text, name]),
  generate: async ({ id, caption, options = {} }) =>
    describe(await generators.get(id).generate(caption, withSeeds(options))),
  async stream({ id, caption, options = {}, stop = Infinity }) {
    const stages = [];
    for await (const stage of generators.get(id).stream(caption, withSeeds(options))) {
      if (stages.push(describe(stage)) === stop) break;
    }
    return stages;
  },
  together: async ({ id, caption, seeds }) => {
    const all = seeds.map((seed) => generators.get(id).generate(caption, { seed }));
    return (await Promise.all(all)).map(describe);
  },
  async interpolate({ id, captions, options = {} }) {
    const pictures = [];
    for await (const picture of generators.get(id).interpolate(captions, withSeeds(options))) {
      pictures.push(base64(picture.data));
    }
    return pictures;
  },
  close: ({ id }) => generators.get(id).close(),
  noise({ seed, noise_features, condition_features, truncation }) {
    const { noise, conditionNoise } = drawNoise(BigInt(seed), noise_features, condition_features, truncation);
    const bits = [noise, conditionNoise].flatMap((part) => [...new Uint32Array(part.buffer)]);
    return bits.map((each) => each.toString(16).padStart(8, "0")).join("");
  },
  parse_manifest: ({ content }) => parseManifest(bytes(content), "here"),
  parse_vocabulary: ({ content }) => Tokenizer.fromJson(bytes(content), "here").words.length,
  parse_aliases: ({ content }) => new Tokenizer(["<end>", "a"]).withAliases(bytes(content), "here").aliases.size,
  check_onnx: ({ content }) => checkOnnxFile(bytes(content), "here"),
  printable: ({ text }) => errors.printable(text),
};

const asText = (_, value) => (typeof value === "bigint" ? String(value) : value);
for await (const line of createInterface({ input: process.stdin })) {
  const { operation, ...request } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await operations[operation](request)) ?? null };
  } catch (error) {
    answer = { error: error.name, message: error.message, known: error instanceof errors.DmganError };
  }
  process.stdout.write(`${JSON.stringify(answer, asText)}\n`);
}
