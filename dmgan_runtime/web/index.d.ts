import type * as OnnxRuntime from "onnxruntime-web";

/** The URL of a bundle's folder or of its .zip, or the content of a .zip. */
export type BundleSource = string | URL | ArrayBuffer | Uint8Array | Blob;

export interface OpenOptions {
  /** What computes: WebAssembly, or a GPU through WebGPU. The default is "wasm". */
  device?: "wasm" | "webgpu";
  /** Of the generators, where the bundle has it. The default is "fp32". */
  precision?: "fp32" | "fp16" | "int8";
  /** Threads of WebAssembly; more than one needs a page that is cross-origin isolated. ONNX Runtime chooses if absent. */
  threads?: number;
  /** Loads onnxruntime-web, if it is not to be imported by that name; called once it is known that it can run. */
  runtime?: () => Promise<typeof OnnxRuntime>;
  /** Told of every part of a bundle's folder that arrives: bytes so far, bytes in all, and the file's path. */
  onProgress?: (progress: { loaded: number; total: number; path: string }) => void;
  /** Fetches the files; the default is the global `fetch`. */
  fetch?: typeof globalThis.fetch;
}

export interface GenerationOptions {
  /** From 0 to 2**64 - 1, a BigInt above 2**53 - 1; drawn at random if absent. */
  seed?: number | bigint;
  /** Stop at this one of `resolutions`; the largest if absent. */
  resolution?: number;
  /** Also return the memory's attention and gates. */
  attention?: boolean;
  /** Over 0 and at most 1: multiplies both noises. Less is nearer to the typical image, and less varied. */
  truncation?: number;
  /** Generate from a sample of the condition's distribution, or from its mean; the bundle's own if absent. */
  condition?: "sampled" | "mean";
}

export interface InterpolationOptions extends Pick<GenerationOptions, "resolution" | "truncation" | "condition"> {
  /** One seed, or the first and the last; drawn at random if absent. */
  seeds?: number | bigint | [number | bigint, number | bigint];
  /** How many pictures, both ends included; at least 2, and 8 if absent. */
  steps?: number;
}

/** Pixels row by row from the top, four bytes each: red, green, blue, and 255. `new ImageData(data, width)` takes it. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8ClampedArray<ArrayBuffer>;
}

export interface Encoding {
  /** [T], places in the vocabulary, padded with 0. */
  tokens: BigInt64Array;
  /** How many of the tokens are words. */
  length: number;
  /** The words that became tokens. */
  words: string[];
  /** The words that the vocabulary lacks, and emoji that are no aliases, as the caption has them but in lower case. */
  unknownWords: string[];
  /** The known words beyond T. */
  cutWords: string[];
}

export interface Generation extends Pick<Encoding, "words" | "unknownWords" | "cutWords"> {
  caption: string;
  seed: bigint;
  /** The image of the last stage that was computed. */
  image: Picture;
  /** The images of every stage so far, by their side in pixels. */
  stages: Map<number, Picture>;
  /** If it was asked for: by resolution, a map [side, side] for each of `words`, row by row; a softmax over the words. */
  attention: Map<number, { side: number; maps: Float32Array[] }> | null;
  /** If attention was asked for: the memory's gates in [0, 1], for each word and for each pixel [side, side]. */
  gates: Map<number, { writing: Float32Array | null; response: Float32Array | null }> | null;
}

/** A DM-GAN that is ready to make images. */
export class Generator {
  private constructor();

  /**
   * Checks a bundle and loads its graphs.
   *
   * @throws BundleError if the bundle is missing, damaged or unsafe; BackendError if the device or precision cannot be
   * had here; EngineError if the engine cannot load a graph; SettingsError for an option out of its range.
   */
  static open(source: BundleSource, options?: OpenOptions): Promise<Generator>;

  /** What the bundle says of itself; docs/bundle.md of dmgan has the schema. */
  readonly manifest: {
    readonly name: string;
    readonly license: string;
    readonly self_test: {
      readonly caption: string;
      readonly seed: number | bigint;
      readonly thumbnails: Readonly<Record<string, string>>;
    } | null;
    readonly [key: string]: unknown;
  };
  /** The words that the model knows; the first is the padding. */
  readonly vocabulary: readonly string[];
  /** Names by what a caption may have in their place, such as emoji. */
  readonly aliases: ReadonlyMap<string, string>;
  /** The sides of the stages' images in pixels, smallest first. */
  readonly resolutions: readonly number[];
  readonly active: { readonly device: "wasm" | "webgpu"; readonly threads: number; readonly version: string };

  /**
   * What the model reads of a caption.
   *
   * @throws CaptionError if it is longer than 10,000 characters, or has no known word.
   */
  encode(caption: string): Encoding;

  /**
   * Makes one image; a caption and a seed name one picture.
   *
   * @throws CaptionError, SettingsError or EngineError.
   */
  generate(caption: string, options?: GenerationOptions): Promise<Generation>;

  /**
   * Makes one image, and hands out each stage as soon as it is there. A stage is computed when it is asked for: leave
   * the loop, and the rest is never computed.
   *
   * @throws CaptionError or SettingsError at the call, EngineError while iterating.
   */
  stream(caption: string, options?: GenerationOptions): AsyncGenerator<Generation, void>;

  /** Makes the images between two: from caption to caption, from seed to seed, or both at once. */
  interpolate(captions: string | [string, string], options?: InterpolationOptions): AsyncGenerator<Picture, void>;

  /** Frees the memory of the graphs; what is being computed is finished first. */
  close(): Promise<void>;
}

/** The noise of a seed, to the bit as Python draws it. */
export function drawNoise(
  seed: number | bigint,
  noiseFeatures: number,
  conditionFeatures: number,
  truncation?: number,
): { noise: Float32Array; conditionNoise: Float32Array };

/** The root of every error that dmgan raises on purpose. */
export class DmganError extends Error {}
/** A bundle is missing, damaged, unsafe, or of a format that this version does not read. */
export class BundleError extends DmganError {}
/** A caption cannot be turned into tokens: empty, too long, or made of unknown words alone. */
export class CaptionError extends DmganError {}
/** A device or a precision was asked for and cannot be had here. */
export class BackendError extends DmganError {}
/** The engine was there but failed while it loaded or ran a graph. */
export class EngineError extends DmganError {}
/** An option is unknown, has the wrong type, or is out of its range. */
export class SettingsError extends DmganError {}
