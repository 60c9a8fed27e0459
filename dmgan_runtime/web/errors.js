/** The errors that dmgan raises on purpose: one family, one class for each kind of trouble, each with its remedy. */

// Control and format characters, lone surrogates, and every separator but the plain space; but emoji stay whole, with
// the joiners in them, and also those that are newer than the engine's tables.
const UNPRINTABLE = /(?![ \n\u200d\u{1f000}-\u{1faff}])[\p{C}\p{Z}]/gu;

/**
 * Text that is safe to show: what is neither visible nor a space or line break becomes its `\x1b`-like escape.
 *
 * @param {string} text
 * @returns {string}
 */
export function printable(text) {
  return text.replace(UNPRINTABLE, (character) => {
    const code = /** @type {number} */ (character.codePointAt(0));
    if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
  });
}

/**
 * Text that a message may repeat, such as what a file of unknown origin says, in one short line.
 *
 * @param {string} text
 * @param {number} [most] Its characters; of what is longer the middle is left out, since remedies stand at the end.
 */
export function shortened(text, most = 300) {
  const line = text.split(/[\r\n]+/).join(" ");
  const half = Math.floor(most / 2);
  return line.length <= most ? line : `${line.slice(0, half)} ... ${line.slice(-half)}`;
}

/** The root of every error that dmgan raises on purpose. Its message is safe to show, whatever it quotes. */
export class DmganError extends Error {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options) {
    super(printable(shortened(message, 1500)), options);
    this.name = new.target.name;
  }
}

/** A bundle is missing, damaged, unsafe, or of a format that this version does not read. */
export class BundleError extends DmganError {}

/** A caption cannot be turned into tokens: empty, too long, or made of unknown words alone. */
export class CaptionError extends DmganError {}

/** An engine or a device was asked for and cannot be had here. */
export class BackendError extends DmganError {}

/** The engine was there but failed while it loaded or ran a graph. */
export class EngineError extends DmganError {}

/** An option is unknown, has the wrong type, or is out of its range. */
export class SettingsError extends DmganError {}

/**
 * What went wrong, in a few words, whatever was thrown.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function reason(error) {
  return shortened(error instanceof Error ? error.message : String(error));
}
