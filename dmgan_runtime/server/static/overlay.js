// Weights over a picture: the picture in grey, tinted by the colours that `dmgan_runtime.viz` uses.

const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Draws a picture with side * side weights from 0 to 255 over it; 255 is drawn as bright as `brightest`, at most 1. */
export function drawOverlay(canvas, picture, weights, side, brightest) {
  const size = 384;
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.filter = "grayscale(1)";
  context.drawImage(picture, 0, 0, size, size);
  context.filter = "none";
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(tinted(weights, side, brightest), 0, 0, size, size);
}

function tinted(weights, side, brightest) {
  const image = new ImageData(side, side);
  weights.forEach((weight, i) => {
    const brightness = (weight / 255) * brightest;
    const at = brightness * (COLOURS.length - 1);
    const below = Math.min(Math.floor(at), COLOURS.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [low, high] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
      image.data[4 * i + channel] = low + (high - low) * (at - below);
    }
    image.data[4 * i + 3] = 255 * (0.2 + 0.7 * brightness);
  });
  const canvas = new OffscreenCanvas(side, side);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
