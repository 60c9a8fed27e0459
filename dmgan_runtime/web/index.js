/** DM-GAN in JavaScript: pictures of captions, from a bundle, in the browser and under Node. */

export { BackendError, BundleError, CaptionError, DmganError, EngineError, SettingsError } from "./errors.js";
export { Generator } from "./generator.js";
export { drawNoise } from "./noise.js";
