/**
 * The noise of an image: a function of its seed alone, to the bit what numpy draws of Philox 4x64-10 with that key.
 * docs/bundle.md, "One seed is one image", has the algorithm and vectors.
 */

import { SettingsError } from "./errors.js";

export const MAX_SEED = 2n ** 64n - 1n;

const MASK32 = 0xffffffffn;
const X = 3.6541528853610088;
const ERFC = 0.0002580324876539013; // erfc(X / sqrt(2)), which JavaScript lacks

/**
 * The 32-bit words of a seed, for ever: each 64-bit word of Philox gives its low half first.
 *
 * @param {bigint} seed
 * @returns {Generator<number, never>}
 */
function* words(seed) {
  for (let block = 1n; ; block++) {
    let [c0, c1, c2, c3] = [block, 0n, 0n, 0n];
    let [k0, k1] = [seed, 0n];
    for (let round = 0; round < 10; round++) {
      const p = 0xd2e7470ee14c6c93n * c0;
      const q = 0xca5a826395121157n * c2;
      c0 = (q >> 64n) ^ c1 ^ k0;
      c1 = BigInt.asUintN(64, q);
      c2 = (p >> 64n) ^ c3 ^ k1;
      c3 = BigInt.asUintN(64, p);
      k0 = BigInt.asUintN(64, k0 + 0x9e3779b97f4a7c15n);
      k1 = BigInt.asUintN(64, k1 + 0xbb67ae8584caa73bn);
    }
    for (const word of [c0, c1, c2, c3]) {
      yield Number(word & MASK32);
      yield Number(word >> 32n);
    }
  }
}

const { K, W, F } = makeTables();

function makeTables() {
  /** @param {number} x */
  const f = (x) => Math.exp(-(x * x) / 2);
  const area = X * f(X) + Math.sqrt(Math.PI / 2) * ERFC;
  const q = area / f(X);
  const x = new Float64Array(256);
  x[255] = X;
  for (let i = 254; i > 0; i--) x[i] = Math.sqrt(-2 * Math.log(area / x[i + 1] + f(x[i + 1])));
  return {
    K: Uint32Array.from(x, (each, i) => Math.round((i ? x[i - 1] / each : X / q) * 2 ** 23)),
    W: Float32Array.from(x, (each, i) => (i ? each : q) / 2 ** 23),
    F: Float32Array.from(x, f),
  };
}

/**
 * Standard normal numbers by a ziggurat of 256 layers in float32.
 *
 * @param {bigint} seed
 * @param {number} count
 * @returns {Float32Array}
 */
function normalNumbers(seed, count) {
  const { fround } = Math;
  const stream = words(seed);
  const next = () => stream.next().value;
  const uniform = () => (next() >>> 8) * 2 ** -24; // exact in float32
  const numbers = new Float32Array(count);
  for (let place = 0; place < count; ) {
    const word = next();
    const layer = word & 255;
    const m = word >>> 9;
    const x = fround(m * W[layer]) * (word & 256 ? -1 : 1);
    if (m < K[layer]) {
      numbers[place++] = x;
    } else if (layer > 0) {
      const height = fround(fround(fround(F[layer - 1] - F[layer]) * fround(uniform())) + F[layer]);
      if (height < Math.exp(-0.5 * x * x)) numbers[place++] = x;
    } else {
      let s, t;
      do {
        s = fround(fround(-1 / X) * fround(Math.log1p(-uniform())));
        t = -fround(Math.log1p(-uniform()));
      } while (!(fround(t + t) > fround(s * s)));
      numbers[place++] = fround(fround(X) + s) * (m & 256 ? -1 : 1);
    }
  }
  return numbers;
}

/** A random seed from 0 to 2**32 - 1: short enough to type again. */
export function freshSeed() {
  return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
}

/**
 * Returns a seed as a BigInt.
 *
 * @param {unknown} seed
 * @returns {bigint}
 */
export function checkSeed(seed) {
  const whole = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (!whole) {
    throw new SettingsError(
      `seed is ${String(seed)}; pass a whole number from 0 to ${MAX_SEED}, a BigInt above ${Number.MAX_SAFE_INTEGER}`,
    );
  }
  const number = BigInt(/** @type {bigint | number} */ (seed));
  if (number < 0n || number > MAX_SEED) {
    throw new SettingsError(`seed ${number} is out of range; pass a whole number from 0 to ${MAX_SEED}`);
  }
  return number;
}

/**
 * @param {unknown} truncation
 * @returns {number}
 */
export function checkTruncation(truncation) {
  if (typeof truncation !== "number" || !(truncation > 0 && truncation <= 1)) {
    throw new SettingsError(
      `truncation is ${String(truncation)}; pass a number over 0 and at most 1 (1 leaves the noise be)`,
    );
  }
  return truncation;
}

/**
 * Draws the noise z and the noise of the conditioning augmentation of one image.
 *
 * @param {bigint | number} seed From 0 to 2**64 - 1.
 * @param {number} noiseFeatures Width of z.
 * @param {number} conditionFeatures Width of the conditioning noise.
 * @param {number} [truncation] Over 0 and at most 1; both are multiplied by it.
 * @returns {{noise: Float32Array, conditionNoise: Float32Array}}
 */
export function drawNoise(seed, noiseFeatures, conditionFeatures, truncation = 1) {
  const factor = Math.fround(checkTruncation(truncation));
  const numbers = normalNumbers(checkSeed(seed), noiseFeatures + conditionFeatures).map((number) => number * factor);
  return { noise: numbers.slice(0, noiseFeatures), conditionNoise: numbers.slice(noiseFeatures) };
}
