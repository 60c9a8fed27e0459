// Plays the frames of a walk, there and back.

const MILLISECONDS = 90;

export class WalkPlayer {
  constructor(section) {
    this.image = section.querySelector("img");
    this.play = section.querySelector("#play");
    this.position = section.querySelector("#position");
    this.frames = [];
    this.direction = 1;
    this.timer = null;
    this.play.addEventListener("click", () => (this.timer ? this.pause() : this.start()));
    this.position.addEventListener("input", () => {
      this.pause();
      this.#draw();
    });
  }

  /** Addresses of pictures; none shows nothing. */
  show(frames) {
    this.pause();
    this.frames = frames;
    this.position.max = Math.max(frames.length - 1, 0);
    this.position.value = 0;
    if (!frames.length) {
      this.image.removeAttribute("src");
      this.image.alt = "";
      this.position.removeAttribute("aria-valuetext");
      return;
    }
    this.#draw();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.start();
  }

  start() {
    if (!this.frames.length || this.timer) return;
    this.timer = setInterval(() => this.#step(), MILLISECONDS);
    this.#label("Pause");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.#label("Play");
  }

  #step() {
    const next = Number(this.position.value) + this.direction;
    if (next < 0 || next >= this.frames.length) this.direction = -this.direction;
    this.position.value = Number(this.position.value) + this.direction;
    this.#draw();
  }

  #draw() {
    const step = Number(this.position.value);
    this.image.src = this.frames[step] ?? "";
    this.image.alt = `Step ${step + 1} of ${this.frames.length}`;
    this.position.setAttribute("aria-valuetext", this.image.alt);
  }

  #label(text) {
    this.play.setAttribute("aria-label", text);
    this.play.classList.toggle("playing", text === "Pause");
  }
}
