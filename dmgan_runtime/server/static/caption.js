// A caption while it is typed: words that the model does not know are struck through, and so seen before anything is
// made. The rules are those of the runtime's tokenizer.

const WORD = /[\p{L}\p{N}_]+/gu;

/** The parts of a caption: [{text, kind}], where kind is "known", "unknown", "cut" or "between". */
export function readCaption(caption, words, maxWords) {
  const parts = [];
  let end = 0;
  let read = 0;
  for (const found of caption.matchAll(WORD)) {
    if (found.index > end) parts.push({ text: caption.slice(end, found.index), kind: "between" });
    end = found.index + found[0].length;
    const word = found[0].toLowerCase().replace(/[^\x00-\x7f]/g, "");
    const known = word !== "" && words.has(word);
    if (known) read += 1;
    parts.push({ text: found[0], kind: !known ? "unknown" : read > maxWords ? "cut" : "known" });
  }
  if (end < caption.length) parts.push({ text: caption.slice(end), kind: "between" });
  return parts;
}

/** A text area and the element behind it that shows its text. */
export class CaptionBox {
  constructor(area, changed) {
    this.area = area;
    this.mirror = area.parentElement.querySelector(".mirror");
    this.words = null;
    this.changed = changed;
    area.addEventListener("input", () => this.show());
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault();
        area.form.requestSubmit();
      }
    });
  }

  know(words, maxWords) {
    this.words = words;
    this.maxWords = maxWords;
    this.show();
  }

  get value() {
    return this.area.value.trim();
  }

  set value(text) {
    this.area.value = text;
    this.show();
  }

  show() {
    const parts = this.words ? readCaption(this.area.value, this.words, this.maxWords) : [];
    const shown = this.words ? parts : [{ text: this.area.value, kind: "between" }];
    this.mirror.replaceChildren(...shown.map(({ text, kind }) => {
      if (kind === "unknown") return Object.assign(document.createElement("s"), { textContent: text });
      if (kind === "cut") return Object.assign(document.createElement("span"), { textContent: text, className: "cut" });
      return document.createTextNode(text);
    }));
    this.area.style.height = "auto"; // where field-sizing is not known
    this.area.style.height = `${this.area.scrollHeight}px`;
    this.parts = parts;
    this.changed();
  }
}
