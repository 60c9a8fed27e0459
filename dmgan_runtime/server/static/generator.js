// Where pictures come from. The page knows this interface alone: in what `dmgan-export web` writes, another file of this
// name takes the place of this one.
//
//   open(tell) -> {name, engine, resolutions, maxWords, tokenizer, maxImages, maxSteps}
//       `tokenizer` is a Tokenizer of dmgan_runtime/web; `tell` is called with text while it takes long.
//   stream({caption, seed, count, stages, attention, signal}) -> async iterator of pictures
//       Every stage of every image if `stages` is true, otherwise the last ones; image i has the seed `seed + i`. Seeds
//       are BigInts.
//   interpolate({captions, seeds, steps, signal}) -> an array of PNG blobs; two captions and two seeds
//
// A picture is {blob, last, resolution, seed, words, unknownWords, nearWords, cutWords, milliseconds, attention}: a PNG;
// what the model read of the caption, with known words that are near to an unknown one, by it; the time of each stage so
// far, by resolution; and null or, by resolution of a stage,
//   {side, maps, largest, shares, writingGate, responseGate, largestResponse}
//       maps[i] is a Uint8Array of side * side for word i, where 255 stands for the stage's `largest` weight;
//       responseGate is such an array, where 255 stands for `largestResponse`, or null; shares and writingGate have a
//       number for each word, or writingGate is null.

import { PAD, Tokenizer } from "../dmgan/tokenizer.js";

export class RefusedError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class PageGenerator {
  constructor(base = "") {
    this.base = base;
    this.key = "";
    this.model = null;
    this.partialImages = 0;
  }

  async open() {
    const { data } = await (await this.#ask("v1/models")).json();
    const [{ id, dmgan }] = data;
    this.model = id;
    this.partialImages = dmgan.resolutions.length - 1;
    const vocabulary = await (await this.#ask(`v1/models/${encodeURIComponent(id)}/vocabulary`)).json();
    return {
      name: id,
      engine: `${dmgan.backend} on ${dmgan.device}, ${dmgan.precision}`,
      resolutions: dmgan.resolutions,
      maxWords: dmgan.max_words,
      maxImages: dmgan.max_images,
      maxSteps: dmgan.max_steps,
      tokenizer: new Tokenizer([PAD, ...vocabulary.words], Object.entries(vocabulary.aliases)),
    };
  }

  async *stream({ caption, seed, count = 1, stages = true, attention = false, signal }) {
    const partial_images = stages ? this.partialImages : 0;
    const content = { model: this.model, prompt: caption, n: count, stream: true, partial_images, attention };
    const answer = await this.#ask("v1/images/generations", signal, withSeeds(content, "seed", seed));
    for await (const event of serverSentEvents(answer.body)) {
      if (event.error) throw new RefusedError(event.error.message, 500);
      const picture = await toPicture(event, seed);
      yield picture;
      if (picture.last) seed += 1n; // counted here, since the number in the event was rounded when it was read
    }
  }

  async interpolate({ captions, seeds, steps, signal }) {
    const content = withSeeds({ model: this.model, prompts: captions, steps }, "seeds", `[${seeds}]`);
    const answer = await this.#ask("v1/images/interpolations", signal, content);
    return (await answer.json()).data.map((item) => toBlob(item.b64_json));
  }

  async #ask(path, signal, content) {
    if (/[^\0-\xff]/.test(this.key)) throw new RefusedError("no header can hold this key", 401);
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    if (content) headers["Content-Type"] = "application/json";
    const answer = await fetch(this.base + path, {
      method: content ? "POST" : "GET", headers, signal, body: content,
    });
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw new RefusedError(said.error?.message ?? `the server answered ${answer.status}`, answer.status);
  }
}

/** JSON with seeds, which JSON.stringify does not take as BigInts. */
function withSeeds(content, name, seeds) {
  return `{"${name}":${seeds},${JSON.stringify(content).slice(1)}`;
}

async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice("data: ".length));
    }
  }
}

async function toPicture({ type, b64_json, dmgan }, seed) {
  const attention = dmgan.attention ? {} : null;
  for (const [resolution, stage] of Object.entries(dmgan.attention ?? {})) {
    const maps = await levels(stage.attention.png);
    const side = maps.width;
    attention[resolution] = {
      side,
      maps: dmgan.words.map((_, i) => maps.values.subarray(i * side * side, (i + 1) * side * side)),
      largest: stage.attention.largest,
      shares: stage.shares,
      writingGate: stage.writing_gate,
      responseGate: stage.response_gate && (await levels(stage.response_gate.png)).values,
      largestResponse: stage.response_gate?.largest,
    };
  }
  return {
    blob: toBlob(b64_json),
    last: type.endsWith(".completed"),
    resolution: dmgan.resolution,
    seed,
    words: dmgan.words,
    unknownWords: dmgan.unknown_words,
    nearWords: dmgan.near_words ?? {},
    cutWords: dmgan.cut_words,
    milliseconds: dmgan.milliseconds,
    attention,
  };
}

function toBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

/** The values of a grey PNG. */
async function levels(base64) {
  const bitmap = await createImageBitmap(toBlob(base64), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const values = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i];
  return { width: bitmap.width, values };
}
