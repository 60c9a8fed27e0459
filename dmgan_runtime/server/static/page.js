// The page: reads what is asked, shows what comes, and keeps both in the address.

import { CaptionBox } from "./caption.js";
import { PageGenerator, RefusedError } from "./generator.js";
import { MemoryPanel } from "./memory.js";
import { WalkPlayer } from "./walk.js";

const EXAMPLES = ["red heart", "a bird with a yellow crown, a red belly and blue wings", "a small red bird", "a red heart"];
const SEEDS = 9;
const STEPS = 16;
const MOST_SEED = 2n ** 64n - 1n;

const at = (id) => document.getElementById(id);
const generator = new PageGenerator();
const memory = new MemoryPanel(at("memory"), at("image"), at("overlay"));
const walk = new WalkPlayer(at("walk"));
const captions = [new CaptionBox(at("caption"), showUnknown), new CaptionBox(at("to-caption"), showUnknown)];
let model = null;
let opening = null;
let asked = new AbortController();
let near = new Map(); // known words by an unknown one, where the generator told them
const addresses = { picture: [], seeds: [], walk: [] }; // of pictures that are shown; given back when others take their place

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
  const meant = unknown.flatMap((word) => near.get(word.toLowerCase()) ?? []).slice(0, 8);
  if (unknown.length) said.push(`The model does not know ${unknown.slice(0, 8).map((word) => `“${word}”`).join(", ")}${unknown.length > 8 ? " and more" : ""}.`);
  if (meant.length) said.push(`Did you mean ${meant.map((word) => `“${word}”`).join(" or ")}?`);
  if (cut) said.push(`It reads ${model.maxWords} words, and ${cut} too many are left out.`);
  say(said.join(" "));
}

function suggest(words) {
  near = new Map(Object.entries(words));
  showUnknown();
}

/** Begins something that takes the place of what runs, and with its first picture of what the view shows. */
function begin(chosen) {
  asked.abort();
  asked = new AbortController();
  const old = addresses[chosen];
  const own = (addresses[chosen] = []);
  return {
    signal: asked.signal,
    address: (blob) => own[own.push(URL.createObjectURL(blob)) - 1],
    forget: () => old.splice(0).forEach((each) => URL.revokeObjectURL(each)),
    end: () => own.push(...old.splice(0)), // they are shown still, if nothing came
  };
}

// ---- The address keeps the state

function readAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  captions[0].value = state.get("caption") ?? captions[0].value;
  captions[1].value = state.get("to") ?? "";
  at("seed").value = state.get("seed") ?? at("seed").value;
  at("to-seed").value = state.get("to-seed") ?? at("to-seed").value;
  const chosen = document.querySelector(`[name=view][value="${CSS.escape(state.get("view") ?? "picture")}"]`);
  if (chosen) chosen.checked = true;
}

function writeAddress(chosenByUser) {
  const state = new URLSearchParams({ caption: captions[0].value, seed: at("seed").value, view: view() });
  if (view() === "walk") {
    state.set("to", captions[1].value);
    state.set("to-seed", at("to-seed").value);
  }
  const hash = `#${state}`;
  if (hash === location.hash) return;
  if (location.hash && chosenByUser) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash); // so that the way back does not end here
}

// ---- What can be asked

/** The seed in a field, whole: a Number would round what is beyond 2 ** 53. Null if it is none. */
function readSeed(id) {
  const text = at(id).value.trim();
  const seed = /^0*\d{1,20}$/.test(text) ? BigInt(text) : null;
  return seed !== null && seed <= MOST_SEED ? seed : null;
}

/** Says which seed is none, if one that is shown is. */
function refuseSeeds() {
  const wrong = (view() === "walk" ? ["seed", "to-seed"] : ["seed"]).find((id) => readSeed(id) === null);
  for (const id of ["seed", "to-seed"]) at(id).setAttribute("aria-invalid", id === wrong);
  if (wrong) say(`“${at(wrong).value.slice(0, 40)}” is no seed; a seed is a whole number from 0 to ${MOST_SEED}.`, true);
  return wrong !== undefined;
}

async function makePicture({ signal, address, forget }) {
  at("stages").replaceChildren();
  memory.show(null);
  at("download").hidden = at("link").hidden = true;
  const caption = captions[0].value;
  for await (const picture of generator.stream({ caption, seed: readSeed("seed"), attention: true, signal })) {
    signal.throwIfAborted(); // what was computed meanwhile
    const source = address(picture.blob);
    const text = `${caption}, ${picture.resolution} pixels`;
    addStage(picture, source, text);
    await showImage(source, text);
    signal.throwIfAborted();
    forget();
    if (!picture.last) continue;
    suggest(picture.nearWords);
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

function addStage(picture, source, text) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  const image = Object.assign(new Image(), { src: source, alt: "" });
  const label = document.createElement("span");
  label.append(`${picture.resolution} px`, document.createElement("br"));
  const milliseconds = picture.milliseconds[picture.resolution];
  label.append(`${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`);
  button.append(image, label);
  button.addEventListener("click", () => {
    memory.clear();
    showImage(source, text);
    press(button);
  });
  item.append(button);
  at("stages").append(item);
  press(button);
}

function press(button) {
  for (const each of at("stages").querySelectorAll("button")) each.setAttribute("aria-pressed", each === button);
}

async function makeSeeds({ signal, address, forget }) {
  at("seeds").replaceChildren();
  const seed = readSeed("seed");
  const count = Math.min(SEEDS, model.maxImages, Number(MOST_SEED - seed) + 1);
  for await (const picture of generator.stream({
    caption: captions[0].value, seed, count, stages: false, signal,
  })) {
    signal.throwIfAborted();
    forget();
    suggest(picture.nearWords);
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Look at this one";
    const image = Object.assign(new Image(), { src: address(picture.blob), alt: "" });
    button.append(image, Object.assign(document.createElement("span"), { textContent: `seed ${picture.seed}` }));
    button.addEventListener("click", () => {
      at("seed").value = picture.seed;
      const alone = document.querySelector("[name=view][value=picture]");
      alone.checked = true;
      make();
      alone.focus(); // the button is hidden now
    });
    at("seeds").append(button);
  }
}

async function makeWalk({ signal, address, forget }) {
  walk.show([]);
  const frames = await generator.interpolate({
    captions: [captions[0].value, captions[1].value || captions[0].value],
    seeds: [readSeed("seed"), readSeed("to-seed")],
    steps: Math.min(STEPS, model.maxSteps),
    signal,
  });
  signal.throwIfAborted();
  forget();
  walk.show(frames.map(address));
}

async function make(chosenByUser = true) {
  const chosen = view();
  showView(chosen);
  if (!model || !captions[0].value || refuseSeeds()) return;
  writeAddress(chosenByUser);
  showUnknown();
  const begun = begin(chosen);
  document.body.classList.add("busy");
  at("made").textContent = "";
  try {
    await { picture: makePicture, seeds: makeSeeds, walk: makeWalk }[chosen](begun);
    // For those who do not see it.
    at("made").textContent = chosen === "picture" ? "The picture is ready." : "The pictures are ready.";
  } catch (error) {
    if (!begun.signal.aborted) {
      refuse(error);
      if (chosen === "picture") at("image").removeAttribute("src"); // it belongs to another caption
    }
  } finally {
    begun.end();
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

/** Small pictures show their pixels; larger ones are scaled smoothly. */
document.addEventListener("load", ({ target }) => {
  if (target instanceof Image) target.classList.toggle("small", target.naturalWidth < 128);
}, true);

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  await open();
  make();
});
for (const each of document.querySelectorAll("[name=view]")) {
  each.addEventListener("change", () => {
    showView(view());
    make();
  });
}
at("dice").addEventListener("click", () => {
  at("seed").value = Math.floor(Math.random() * 2 ** 32);
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
at("key").addEventListener("change", () => {
  generator.key = at("key").value;
  rememberKey();
});
window.addEventListener("popstate", () => {
  readAddress();
  make(false);
});

/** The key that the tab keeps; none where site data are blocked. */
function rememberedKey() {
  try {
    return sessionStorage.getItem("key");
  } catch {
    return null;
  }
}

function rememberKey() {
  try {
    sessionStorage.setItem("key", generator.key);
  } catch {
    // It is asked for again.
  }
}

/** Opens the model, once however often it is asked for meanwhile. */
function open() {
  opening ??= openModel().finally(() => {
    if (!model) opening = null;
  });
  return opening;
}

async function openModel() {
  generator.key = at("key").value || rememberedKey() || "";
  at("note").setAttribute("aria-live", "off"); // nobody wants to hear of every megabyte
  try {
    model = await generator.open(say).finally(() => at("note").removeAttribute("aria-live"));
  } catch (error) {
    refuse(error);
    return;
  }
  document.querySelector(".key").hidden = true;
  at("model").textContent = `${model.name} · ${model.engine}`;
  for (const box of captions) box.know(model.tokenizer, model.maxWords);
  if (model.tokenizer.aliases.size) captions[0].area.placeholder = "Describe a picture, or type an emoji";
  if (!captions[0].value) {
    captions[0].value = EXAMPLES.find((each) => each.match(/\w+/g).every((word) => model.tokenizer.has(word))) ?? "";
  }
}

readAddress();
showView(view());
await open();
await make(false);
const idle = document.activeElement === document.body && matchMedia("(pointer: fine)").matches; // no keyboard on a phone
if (model && idle) captions[0].area.focus({ preventScroll: true });
