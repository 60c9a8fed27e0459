/** ONNX Runtime's build for the web, which runs the graphs: one at a time, whoever asks. */

import { BackendError, DmganError, EngineError, reason, SettingsError } from "./errors.js";
import { checkTensors } from "./graphs.js";

/**
 * @typedef {"wasm" | "webgpu"} Device
 * @typedef {Record<string, import("onnxruntime-common").Tensor>} Tensors
 * @typedef {typeof import("onnxruntime-web")} Runtime
 */

/**
 * Loads ONNX Runtime for a device.
 *
 * @param {Device} device
 * @returns {Promise<Runtime>}
 */
async function importRuntime(device) {
  if (device === "webgpu") return import("onnxruntime-web/webgpu");
  // Under Node the build for the browser would fetch its own files, which Node cannot.
  if (globalThis.process?.versions?.node) return import("onnxruntime-web");
  return import("onnxruntime-web/wasm");
}

/** The loaded graphs of a bundle. */
export class Engine {
  /** @type {Map<string, import("onnxruntime-common").InferenceSession>} */
  #sessions = new Map();
  #turn = Promise.resolve();
  #threads;

  /**
   * @param {Runtime} runtime
   * @param {Device} device
   * @param {number | undefined} threads
   */
  constructor(runtime, device, threads) {
    this.runtime = runtime;
    this.device = device;
    this.#threads = threads;
    this.version = runtime.env.versions.web ?? runtime.env.versions.common;
  }

  /**
   * Checks the device and prepares ONNX Runtime for it.
   *
   * @param {Device} device
   * @param {number | undefined} threads
   * @param {() => Promise<Runtime>} [load] Loads ONNX Runtime, once it is known that it can run.
   * @returns {Promise<Engine>}
   */
  static async open(device, threads, load = () => importRuntime(device)) {
    if (device !== "wasm" && device !== "webgpu") {
      throw new SettingsError(`device is ${String(device)}; pass "wasm" or "webgpu"`);
    }
    if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 1024)) {
      throw new SettingsError(`threads is ${String(threads)}; pass a whole number from 1 to 1024`);
    }
    if (!globalThis.WebAssembly) {
      throw new BackendError("WebAssembly cannot run here; use a browser of 2023 or later, and let it run WebAssembly");
    }
    // @ts-ignore: WebGPU's types are not everywhere
    if (device === "webgpu" && !(await globalThis.navigator?.gpu?.requestAdapter())) {
      throw new BackendError('WebGPU cannot be had here; use device "wasm", or a browser and a GPU that have WebGPU');
    }
    let runtime;
    try {
      runtime = await load();
    } catch (error) {
      if (error instanceof DmganError) throw error;
      throw new BackendError(
        `onnxruntime-web cannot be loaded (${reason(error)}); install it with: npm install onnxruntime-web, or pass the` +
          " module as `runtime`",
      );
    }
    return new Engine(runtime, device, threads);
  }

  /** How many threads compute, as the first engine of a page decided; above one only where it is cross-origin isolated. */
  get threads() {
    if (typeof document !== "undefined" && !globalThis.crossOriginIsolated) return 1; // whatever was asked for
    return this.runtime.env.wasm.numThreads ?? 1;
  }

  /**
   * Loads a graph, which must be what the manifest says.
   *
   * @param {import("./manifest.js").GraphEntry} graph
   * @param {Uint8Array} content
   * @param {string} where Names it in messages.
   */
  async load(graph, content, where) {
    const { wasm } = this.runtime.env;
    if (wasm.proxy === undefined) {
      // Before its first session: it reads its settings once, and what is changed later breaks the sessions of a page.
      if (this.#threads !== undefined) wasm.numThreads = this.#threads;
      // In a worker, so that a page that draws its stages does not freeze while the next one is computed.
      wasm.proxy = this.device === "wasm" && typeof document !== "undefined";
    }
    let session;
    try {
      /** @type {import("onnxruntime-common").InferenceSession.SessionOptions} */
      const options = { executionProviders: [this.device], logSeverityLevel: 3 }; // errors, no advice
      session = await this.runtime.InferenceSession.create(content, options);
    } catch (error) {
      throw new EngineError(
        `${where}: ONNX Runtime ${this.version} cannot load it on ${this.device} (${reason(error)}); use another` +
          " device, or export the bundle again",
      );
    }
    this.#sessions.set(graph.role, session);
    checkTensors(session.inputMetadata.map(entry), graph.inputs, `${where}, inputs`);
    checkTensors(session.outputMetadata.map(entry), graph.outputs, `${where}, outputs`);
  }

  /**
   * Runs a graph.
   *
   * @param {string} role
   * @param {Tensors} inputs
   * @param {string[]} names Of the outputs to fetch.
   * @returns {Promise<Tensors>}
   */
  async run(role, inputs, names) {
    const before = this.#turn;
    let done = () => {};
    this.#turn = new Promise((resolve) => (done = /** @type {() => void} */ (resolve)));
    await before;
    try {
      const session = this.#sessions.get(role);
      if (!session) throw new Error("it was closed");
      return await session.run(this.runtime.env.wasm.proxy ? this.#copies(inputs) : inputs, names);
    } catch (error) {
      throw new EngineError(`ONNX Runtime ${this.version} on ${this.device} cannot run ${role}: ${reason(error)}`);
    } finally {
      done();
    }
  }

  /**
   * A worker takes what it is given for itself, and the next graph may need it too.
   *
   * @param {Tensors} inputs
   * @returns {Tensors}
   */
  #copies(inputs) {
    const copy = (/** @type {any} */ { type, data, dims }) => new this.runtime.Tensor(type, data.slice(), dims);
    return Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, copy(tensor)]));
  }

  /** Frees the graphs, once what runs has ended. */
  async close() {
    await this.#turn;
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    for (const session of sessions) await session.release();
  }
}

/**
 * An input or output of a session as the manifest has it.
 *
 * @param {import("onnxruntime-common").InferenceSession.ValueMetadata} value
 * @returns {import("./manifest.js").TensorEntry}
 */
function entry(value) {
  if (!value.isTensor) return { name: value.name, dtype: "no tensor", shape: [] };
  const shape = value.shape.map((side) => (typeof side === "number" ? side : "batch"));
  return { name: value.name, dtype: value.type, shape };
}
