// Where pictures come from when there is no server: the bundle beside the page, run here. This file takes the place of
// the one in dmgan_runtime/server/static, which says what the page asks of it.

import { BundleError, DmganError, Generator } from "../dmgan/index.js";
import { Tokenizer } from "../dmgan/tokenizer.js";
import { toPng } from "./png.js";

const root = new URL("../", import.meta.url);

export class RefusedError extends Error {}

export class PageGenerator {
  async open(tell) {
    return refusing(async () => {
      await keepSite();
      const site = await readSite();
      const device = new URLSearchParams(location.search).get("device") ?? "wasm";
      const files = site.runtime[device];
      if (!files) throw new RefusedError(`This site has no files for the device ${device}; open it without ?device=.`);
      const arrived = [0, 0];
      const all = [files.bytes, 0];
      let over = false; // what still arrives after an error must not hide it
      const progress = (part, loaded, total) => {
        [arrived[part], all[part]] = [loaded, total];
        if (!over) tell(`Loading ${megabytes(arrived)} of ${megabytes(all)} MB`);
      };
      this.generator = await Generator.open(new URL("bundle/", root), {
        device,
        runtime: () => loadRuntime(files, (bytes) => progress(0, bytes, files.bytes)),
        onProgress: ({ loaded, total }) => progress(1, loaded, total),
      }).finally(() => (over = true));
      tell("");
      const { manifest, active, resolutions, vocabulary, aliases } = this.generator;
      const threads = device === "wasm" ? `, ${active.threads} thread${active.threads === 1 ? "" : "s"}` : "";
      return {
        name: manifest.name,
        engine: `onnxruntime-web ${active.version} on ${device}${threads}, in this browser`,
        resolutions,
        maxWords: manifest.tokenizer.max_words,
        maxImages: Infinity,
        maxSteps: Infinity,
        tokenizer: new Tokenizer(vocabulary, aliases),
      };
    });
  }

  async *stream({ caption, seed, count = 1, stages = true, attention = false, signal }) {
    const last = this.generator.resolutions.at(-1);
    for (let image = 0; image < count; image++) {
      const milliseconds = {};
      const options = { seed: seed + BigInt(image), attention };
      const iterator = await refusing(() => this.generator.stream(caption, options));
      for (;;) {
        signal?.throwIfAborted();
        const began = performance.now();
        const { done, value } = await refusing(() => iterator.next());
        if (done) break;
        const resolution = value.image.width;
        milliseconds[resolution] = performance.now() - began;
        if (stages || resolution === last) yield await describe(value, last, { ...milliseconds });
      }
    }
  }

  async interpolate({ captions, seeds, steps, signal }) {
    return refusing(async () => {
      const blobs = [];
      for await (const picture of this.generator.interpolate(captions, { seeds, steps })) {
        signal?.throwIfAborted();
        blobs.push(await toPng(picture));
      }
      return blobs;
    });
  }
}

/** What the page is told of an error is what the module says. */
async function refusing(work) {
  try {
    return await work();
  } catch (error) {
    // What could not be fetched has a cause, and is not damaged.
    if (error instanceof BundleError && !error.cause) await forgetSite().catch(() => {});
    throw error instanceof DmganError ? new RefusedError(error.message) : error;
  }
}

async function readSite() {
  try {
    return await (await fetch(new URL("site.json", root))).json();
  } catch (error) {
    throw new RefusedError(`site.json cannot be read (${error.message}); look whether the host has the whole site.`);
  }
}

/**
 * Has the service worker keep what comes from here on; without one the page works all the same. One that is there is
 * asked for a new export first: its page and the bundle belong together, so the page is loaded again then.
 */
async function keepSite() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  const script = new URL("service_worker.js", root);
  let replaced = false;
  const changed = new Promise((resolve) => workers.addEventListener("controllerchange", resolve, { once: true }));
  changed.then(() => (replaced = true));
  try {
    if (workers.controller?.scriptURL !== script.href) {
      const { active } = await workers.register(script, { scope: root });
      if (!active) await soon(changed); // else the page was loaded past it
      return;
    }
    const registration = await soon(workers.getRegistration(root).then((found) => found.update()));
    if (!registration?.installing && !registration?.waiting && !replaced) return;
    await soon(changed.then(() => new Promise(() => location.reload())));
  } catch {
    // Private windows and plain http have none, and without a network there is nothing new.
  }
}

/** What comes within seconds; undefined if it does not. */
function soon(promise) {
  return Promise.race([promise, new Promise((resolve) => setTimeout(resolve, 5000))]);
}

/** So that a damaged file is fetched anew next time. */
async function forgetSite() {
  for (const name of (await globalThis.caches?.keys()) ?? []) {
    if (name.startsWith(`dmgan ${root.href} `)) await caches.delete(name);
  }
}

function megabytes(parts) {
  return (parts.reduce((sum, bytes) => sum + bytes) / 1e6).toFixed(1);
}

/** The engine, whose WebAssembly is proven as the bundle's files are. */
async function loadRuntime({ module, wasm, bytes, sha256 }, arrived) {
  const content = new Uint8Array(bytes);
  let size = 0;
  try {
    const response = await fetch(new URL(wasm, root));
    // What is not there comes to another digest; anything else says nothing of the file.
    if (!response.ok && response.status !== 404) throw new Error(`the host says ${response.status}`);
    const reader = response.body.getReader();
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      if (size + step.value.length <= bytes) content.set(step.value, size);
      size += step.value.length;
      arrived(size);
    }
  } catch (error) {
    throw new BundleError(`${wasm}: cannot be read (${error.message}); check the connection and load the page again`, {
      cause: error,
    });
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (size !== bytes || found !== sha256) {
    throw new BundleError(`${wasm}: missing, damaged or replaced; copy the site again from where it was exported`);
  }
  const runtime = await import(new URL(module, root));
  runtime.env.wasm.wasmBinary = content.buffer;
  return runtime;
}

/** A stage as the page takes it. */
async function describe(generation, last, milliseconds) {
  const { caption, seed, image, words, unknownWords, cutWords, gates } = generation;
  const isLast = image.width === last;
  const attention = isLast ? generation.attention : null; // the page shows no other
  return {
    blob: await toPng(image, { Description: caption, Seed: String(seed) }),
    last: isLast,
    resolution: image.width,
    seed,
    words,
    unknownWords,
    nearWords: {},
    cutWords,
    milliseconds,
    attention: attention && Object.fromEntries(
      [...attention].map(([side, stage]) => [side, describeMemory(stage, gates.get(side))]),
    ),
  };
}

function describeMemory({ side, maps }, { writing, response }) {
  const largest = maps.reduce((most, map) => map.reduce((a, b) => Math.max(a, b), most), 0);
  const largestResponse = response?.reduce((a, b) => Math.max(a, b), 0);
  return {
    side,
    largest,
    maps: maps.map((map) => levels(map, largest)),
    shares: maps.map((map) => map.reduce((sum, value) => sum + value, 0) / map.length),
    writingGate: writing && [...writing],
    responseGate: response && levels(response, largestResponse),
    largestResponse,
  };
}

/** Weights as bytes, 255 for the largest. */
function levels(weights, largest) {
  return Uint8Array.from(weights, (weight) => Math.round((255 * weight) / Math.max(largest, Number.MIN_VALUE)));
}
