/** The way from one picture to another: between two noises, and between two captions. */

const PARALLEL = 1e-6;

/**
 * @typedef {object} TextFeatures What the text encoder makes of one caption.
 * @property {Float32Array} words [D, T]
 * @property {Float32Array} sentence [D]
 * @property {number} length
 */

/**
 * A straight line between two vectors, free of rounding where it begins and ends.
 *
 * @param {Float32Array} start
 * @param {Float32Array} end
 * @param {number} position From 0 to 1.
 */
function lerp(start, end, position) {
  if (position === 0 || position === 1) return position ? end : start;
  return start.map((value, place) => (1 - position) * value + position * end[place]);
}

/**
 * Interpolates between two noises along a great circle (White, "Sampling Generative Networks", 2016): Gaussian noise of
 * many dimensions lies close to a sphere, and the middle of a straight line is well inside it.
 *
 * @param {Float32Array} start
 * @param {Float32Array} end
 * @param {number} position From 0 (exactly `start`) to 1 (exactly `end`).
 * @returns {Float32Array}
 */
export function slerp(start, end, position) {
  /** @type {(a: Float32Array, b: Float32Array) => number} */
  const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  const norms = Math.sqrt(dot(start, start) * dot(end, end));
  const angle = Math.acos(Math.min(Math.max(dot(start, end) / Math.max(norms, PARALLEL), -1), 1));
  if (position === 0 || position === 1 || Math.sin(angle) < PARALLEL) return lerp(start, end, position);
  const [from, to] = [Math.sin((1 - position) * angle), Math.sin(position * angle)];
  return start.map((value, place) => (from * value + to * end[place]) / Math.sin(angle));
}

/**
 * Interpolates between the features of two captions: the sentence linearly, and each memory slot from a word of one to
 * its partner in the other. Partners are the cheapest alignment in reading order that gives every word one.
 *
 * @param {TextFeatures} start
 * @param {TextFeatures} end
 * @param {number} position From 0 (exactly `start`) to 1 (exactly `end`).
 * @returns {TextFeatures}
 */
export function blendTexts(start, end, position) {
  if (position === 0 || position === 1) return position ? end : start;
  const features = start.sentence.length;
  const slots = start.words.length / features;
  const pairs = alignWords(start, end);
  const words = new Float32Array(start.words.length);
  for (let feature = 0; feature < features; feature++) {
    const row = feature * slots;
    pairs.forEach(([i, j], slot) => {
      words[row + slot] = (1 - position) * start.words[row + i] + position * end.words[row + j];
    });
  }
  return { words, sentence: lerp(start.sentence, end.sentence, position), length: pairs.length };
}

/**
 * Pairs the words of two captions in reading order so that the pairs' features are nearest in total, by dynamic
 * programming; a word of the longer caption has exactly one partner.
 *
 * @param {TextFeatures} start
 * @param {TextFeatures} end
 * @returns {[number, number][]}
 */
function alignWords(start, end) {
  if (start.length < end.length) return alignWords(end, start).map(([j, i]) => [i, j]);
  const [rows, columns, features] = [start.length, end.length, start.sentence.length];
  const slots = start.words.length / features;
  /** @type {(i: number, j: number) => number} */
  const distance = (i, j) => {
    let sum = 0;
    for (let row = 0; row < start.words.length; row += slots) sum += (start.words[row + i] - end.words[row + j]) ** 2;
    return sum;
  };
  const cost = [Array.from({ length: columns }, (_, j) => (j ? Infinity : distance(0, 0)))];
  for (let i = 1; i < rows; i++) {
    const before = cost[i - 1];
    cost.push(before.map((each, j) => distance(i, j) + Math.min(each, j ? before[j - 1] : Infinity)));
  }
  let j = columns - 1;
  /** @type {[number, number][]} */
  const pairs = [[rows - 1, j]];
  for (let i = rows - 2; i >= 0; i--) {
    if (j && cost[i][j - 1] <= cost[i][j]) j--;
    pairs.push([i, j]);
  }
  return pairs.reverse();
}
