// The memory of one picture: what each stage read of each word, and where.

import { drawOverlay } from "./overlay.js";

export class MemoryPanel {
  constructor(panel, image, canvas) {
    this.panel = panel;
    this.image = image;
    this.canvas = canvas;
    this.picture = null;
    this.pinned = null;
    this.find = (selector) => panel.querySelector(selector);
    const response = this.find("#response");
    this.#listen(response, response, () => [this.stage.responseGate, this.stage.largestResponse]);
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.clear();
    });
  }

  /** A picture with its attention, or null. */
  show(picture) {
    this.picture = picture;
    this.clear();
    const stages = Object.keys(picture?.attention ?? {});
    this.panel.hidden = !stages.length;
    this.find("#memory-stages").replaceChildren(...stages.map((resolution, i) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), {
        type: "radio", name: "memory-stage", value: resolution, checked: i === stages.length - 1,
      });
      input.addEventListener("change", () => this.#choose(resolution));
      label.append(input, Object.assign(document.createElement("span"), { textContent: resolution }));
      return label;
    }));
    if (stages.length) this.#choose(stages.at(-1));
  }

  /** Shows the picture itself. */
  clear() {
    this.pinned?.setAttribute("aria-pressed", "false");
    this.pinned = null;
    this.canvas.hidden = true;
  }

  #choose(resolution) {
    const pinned = [...this.panel.querySelectorAll("[aria-pressed]")].indexOf(this.pinned);
    this.clear();
    this.stage = this.picture.attention[resolution];
    const { shares, writingGate, responseGate, maps } = this.stage;
    this.find("#largest").textContent = percent(this.stage.largest);
    this.find("#largest-response").textContent = percent(this.stage.largestResponse ?? 0);
    this.find("#writing").hidden = !writingGate;
    this.find("#response").hidden = !responseGate;
    this.find("#words").replaceChildren(...this.picture.words.map((word, i) => {
      const row = document.createElement("tr");
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: word });
      button.setAttribute("aria-pressed", "false");
      row.append(cell(button), cell(...bar(shares[i])));
      if (writingGate) row.append(cell(...bar(writingGate[i])));
      this.#listen(row, button, () => [maps[i], 1]);
      return row;
    }));
    const again = this.panel.querySelectorAll("[aria-pressed]")[pinned];
    if (again && !again.hidden) again.click();
  }

  /** Shows weights while the pointer or the focus is on something, and for good when its button is pressed. */
  #listen(area, button, weights) {
    const look = () => this.#draw(weights());
    const leave = () => (this.pinned ? this.pinned.look() : (this.canvas.hidden = true));
    button.look = look;
    area.addEventListener("pointerenter", look);
    area.addEventListener("pointerleave", leave);
    button.addEventListener("focus", () => button.matches(":focus-visible") && look());
    button.addEventListener("blur", leave);
    button.addEventListener("click", () => {
      const again = this.pinned === button;
      this.clear();
      if (again) return;
      this.pinned = button;
      button.setAttribute("aria-pressed", "true");
      look();
    });
  }

  #draw([weights, brightest]) {
    drawOverlay(this.canvas, this.image, weights, this.stage.side, brightest);
    this.canvas.hidden = false;
  }
}

function cell(...content) {
  const made = document.createElement("td");
  made.append(...content);
  return made;
}

function percent(value) {
  return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
}

/** A share of 1. */
function bar(value) {
  const number = Object.assign(document.createElement("span"), {
    className: "number", textContent: percent(value),
  });
  const meter = Object.assign(document.createElement("meter"), { max: 1, value });
  meter.setAttribute("aria-hidden", "true");
  return [meter, number];
}
