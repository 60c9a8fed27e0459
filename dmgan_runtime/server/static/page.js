// The page: reads what is asked, shows what comes, and keeps both in the address.

import { CaptionBox } from "./caption.js";
import { PageGenerator, RefusedError } from "./generator.js";
import { MemoryPanel } from "./memory.js";
import { WalkPlayer } from "./walk.js";

const EXAMPLES = ["red heart", "a bird with a yellow crown, a red belly and blue wings", "a small red bird", "a red heart"];
const SEEDS = 9;
const STEPS = 16;
const MOST_SEED = 2 ** 32;

const at = (id) => document.getElementById(id);
const generator = new PageGenerator();
const memory = new MemoryPanel(at("memory"), at("image"), at("overlay"));
const walk = new WalkPlayer(at("walk"));
const captions = [new CaptionBox(at("caption"), showUnknown), new CaptionBox(at("to-caption"), showUnknown)];
let model = null;
let asked = new AbortController();
let addresses = []; // of pictures that are shown; given back when others take their place

function view() {
  return document.querySelector("[name=view]:checked").value;
}

function say(text, alarm = false) {
  at("note").textContent = text;
  at("note").classList.toggle("alarm", alarm);
}

function showUnknown() {
  const parts = captions.flatMap((box) => (box.area.offsetParent && box.parts) || []);
  const unknown = [...new Set(parts.filter((part) => part.kind === "unknown").map((part) => part.text))];
  const cut = parts.filter((part) => part.kind === "cut").length;
  const said = [];
  if (unknown.length) said.push(`The model does not know ${unknown.slice(0, 8).map((word) => `“${word}”`).join(", ")}${unknown.length > 8 ? " and more" : ""}.`);
  if (cut) said.push(`It reads ${model.maxWords} words, and ${cut} too many are left out.`);
  say(said.join(" "));
}

function address(blob) {
  addresses.push(URL.createObjectURL(blob));
  return addresses.at(-1);
}

/** Begins something that takes the place of what runs and of what is shown. */
function begin() {
  asked.abort();
  asked = new AbortController();
  const old = addresses;
  addresses = [];
  return { signal: asked.signal, forget: () => old.forEach((each) => URL.revokeObjectURL(each)) };
}

// ---- The address keeps the state

function readAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  const seed = (name, otherwise) => (/^\d{1,15}$/.test(state.get(name) ?? "") ? state.get(name) : otherwise);
  captions[0].value = state.get("caption") ?? captions[0].value;
  captions[1].value = state.get("to") ?? "";
  at("seed").value = seed("seed", at("seed").value);
  at("to-seed").value = seed("to-seed", at("to-seed").value);
  const chosen = document.querySelector(`[name=view][value="${CSS.escape(state.get("view") ?? "picture")}"]`);
  if (chosen) chosen.checked = true;
}

function writeAddress() {
  const state = new URLSearchParams({ caption: captions[0].value, seed: at("seed").value, view: view() });
  if (view() === "walk") {
    state.set("to", captions[1].value);
    state.set("to-seed", at("to-seed").value);
  }
  const hash = `#${state}`;
  if (hash !== location.hash) history.pushState(null, "", hash);
}

// ---- What can be asked

async function makePicture({ signal, forget }) {
  at("stages").replaceChildren();
  memory.show(null);
  for await (const picture of generator.stream({
    caption: captions[0].value, seed: Number(at("seed").value), attention: true, signal,
  })) {
    const source = address(picture.blob);
    addStage(picture, source);
    await showImage(source, `${captions[0].value}, ${picture.resolution} pixels`);
    forget();
    if (!picture.last) continue;
    memory.show(picture);
    Object.assign(at("download"), {
      hidden: false, href: source, download: `${picture.words.join("-").slice(0, 60)}-seed${picture.seed}.png`,
    });
    at("link").hidden = false;
  }
}

async function showImage(source, text) {
  at("image").src = source;
  at("image").alt = text;
  await at("image").decode().catch(() => {});
}

function addStage(picture, source) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  const image = Object.assign(new Image(), { src: source, alt: "" });
  const label = document.createElement("span");
  label.append(`${picture.resolution} × ${picture.resolution}`, document.createElement("br"));
  label.append(`${picture.milliseconds[picture.resolution].toFixed(1)} ms`);
  button.append(image, label);
  button.addEventListener("click", () => {
    memory.clear();
    showImage(source, `${captions[0].value}, ${picture.resolution} pixels`);
    press(button);
  });
  item.append(button);
  at("stages").append(item);
  press(button);
}

function press(button) {
  for (const each of at("stages").querySelectorAll("button")) each.setAttribute("aria-pressed", each === button);
}

async function makeSeeds({ signal, forget }) {
  at("seeds").replaceChildren();
  const count = Math.min(SEEDS, model.maxImages);
  for await (const picture of generator.stream({
    caption: captions[0].value, seed: Number(at("seed").value), count, stages: false, signal,
  })) {
    forget();
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Look at this one";
    const image = Object.assign(new Image(), { src: address(picture.blob), alt: "" });
    button.append(image, Object.assign(document.createElement("span"), { textContent: `seed ${picture.seed}` }));
    button.addEventListener("click", () => {
      at("seed").value = picture.seed;
      document.querySelector("[name=view][value=picture]").checked = true;
      make();
    });
    at("seeds").append(button);
  }
}

async function makeWalk({ signal, forget }) {
  walk.show([]);
  const frames = await generator.interpolate({
    captions: [captions[0].value, captions[1].value || captions[0].value],
    seeds: [Number(at("seed").value), Number(at("to-seed").value)],
    steps: Math.min(STEPS, model.maxSteps),
    signal,
  });
  forget();
  walk.show(frames.map(address));
}

async function make() {
  if (!model || !captions[0].value || !at("ask").reportValidity()) return;
  const chosen = view();
  showView(chosen);
  writeAddress();
  showUnknown();
  const begun = begin();
  document.body.classList.add("busy");
  try {
    await { picture: makePicture, seeds: makeSeeds, walk: makeWalk }[chosen](begun);
  } catch (error) {
    if (!begun.signal.aborted) refuse(error);
  } finally {
    if (!begun.signal.aborted) document.body.classList.remove("busy");
  }
}

function showView(chosen) {
  document.body.dataset.view = chosen;
  for (const each of ["picture", "seeds", "walk"]) at(each).hidden = each !== chosen;
  if (chosen !== "walk") walk.pause();
  if (chosen === "walk") captions[1].show();
}

function refuse(error) {
  if (error.status === 401) {
    say(generator.key ? "That is not the server’s key." : "", true);
    document.querySelector(".key").hidden = false;
    at("key").focus();
    return;
  }
  say(error instanceof RefusedError ? error.message : "The server does not answer. Is it running?", true);
}

// ---- What the user does

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!model) await open();
  make();
});
for (const each of document.querySelectorAll("[name=view]")) {
  each.addEventListener("change", () => {
    showView(view());
    make();
  });
}
at("dice").addEventListener("click", () => {
  at("seed").value = Math.floor(Math.random() * MOST_SEED);
  make();
});
at("link").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is in the clipboard.");
  } catch {
    say("The link is in the address bar.");
  }
});
at("key").addEventListener("change", () => sessionStorage.setItem("key", at("key").value));
window.addEventListener("popstate", () => {
  readAddress();
  make();
});

async function open() {
  generator.key = at("key").value || sessionStorage.getItem("key") || "";
  try {
    model = await generator.open(say);
  } catch (error) {
    refuse(error);
    return;
  }
  document.querySelector(".key").hidden = true;
  at("model").textContent = `${model.name} · ${model.engine}`;
  for (const box of captions) box.know(model.words, model.maxWords);
  if (!captions[0].value) {
    captions[0].value = EXAMPLES.find((each) => each.match(/\w+/g).every((word) => model.words.has(word))) ?? "";
  }
}

readAddress();
showView(view());
await open();
await make();
if (model && matchMedia("(pointer: fine)").matches) captions[0].area.focus({ preventScroll: true }); // no keyboard on a phone
