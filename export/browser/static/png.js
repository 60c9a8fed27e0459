// PNG files of pictures, with caption and seed inside. No canvas has a part in it: some browsers blur what they read.

import { printable } from "../dmgan/errors.js";
import { crc32 } from "../dmgan/zip.js";

/** A picture {width, height, data} as a PNG, with text by keyword. */
export async function toPng({ width, height, data }, text = {}) {
  const rows = new Uint8Array(height * (1 + 3 * width)); // each begins with its filter, which is none
  for (let y = 0, to = 0, from = 0; y < height; y++) {
    to++;
    for (let x = 0; x < width; x++, from += 4, to += 3) rows.set(data.subarray(from, from + 3), to);
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint16(8, 0x0802); // eight bits a colour, red green blue
  return new Blob(
    [
      Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
      chunk("IHDR", new Uint8Array(head.buffer)),
      ...Object.entries(text).map(([keyword, value]) => textChunk(keyword, printable(value))),
      chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
      chunk("IEND", new Uint8Array()),
    ],
    { type: "image/png" },
  );
}

function textChunk(keyword, value) {
  const utf8 = new TextEncoder();
  if (/^[\0-\xff]*$/.test(value)) {
    return chunk("tEXt", Uint8Array.from(`${keyword}\0${value}`, (letter) => letter.charCodeAt(0)));
  }
  return chunk("iTXt", utf8.encode(`${keyword}\0\0\0\0\0${value}`));
}

function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}
