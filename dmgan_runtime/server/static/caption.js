// A caption while it is typed: words and emoji that the model does not know are struck through, and so seen before
// anything is made.

import { splitWords, WORD } from "../dmgan/tokenizer.js";

/** The parts of a caption: [{text, kind}], where kind is "known", "unknown", "cut" or "between". */
export function readCaption(caption, tokenizer, maxWords) {
  const parts = [];
  let read = 0;
  const add = (text, words) => {
    const known = words.every(({ word }) => word && tokenizer.has(word));
    if (known) read += words.length;
    parts.push({ text, kind: !words.length ? "between" : !known ? "unknown" : read > maxWords ? "cut" : "known" });
  };
  for (const { text, name } of tokenizer.split(caption)) {
    if (name !== null) {
      add(text, splitWords(name));
      continue;
    }
    let end = 0;
    for (const found of text.matchAll(WORD)) {
      add(text.slice(end, found.index), []);
      end = found.index + found[0].length;
      add(found[0], splitWords(found[0]));
    }
    add(text.slice(end), []);
  }
  return parts;
}

/** A text area and the element behind it that shows its text. */
export class CaptionBox {
  constructor(area, changed) {
    this.area = area;
    this.mirror = area.parentElement.querySelector(".mirror");
    this.tokenizer = null;
    this.changed = changed;
    area.addEventListener("input", () => this.show());
    addEventListener("resize", () => this.#fit());
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault();
        area.form.requestSubmit();
      }
    });
  }

  know(tokenizer, maxWords) {
    this.tokenizer = tokenizer;
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
    const parts = this.tokenizer ? readCaption(this.area.value, this.tokenizer, this.maxWords) : [];
    const shown = this.tokenizer ? parts : [{ text: this.area.value, kind: "between" }];
    this.mirror.replaceChildren(...shown.map(({ text, kind }) => {
      if (kind === "unknown") return Object.assign(document.createElement("s"), { textContent: text });
      if (kind === "cut") return Object.assign(document.createElement("span"), { textContent: text, className: "cut" });
      return document.createTextNode(text);
    }));
    this.#fit();
    this.parts = parts;
    this.changed();
  }

  #fit() {
    this.area.style.height = "auto"; // where field-sizing is not known
    this.area.style.height = `${this.area.scrollHeight}px`;
  }
}
