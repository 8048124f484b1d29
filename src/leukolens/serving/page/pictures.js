/* Where the picture of a result lies on the user's own disk: a file, or a member of a zip archive.
 *
 * In: files that the user chose. Out: blobs, when they are asked for. Members are unpacked one by one, and only those that the
 * server has scored: it has found their size, packing and check sum in order.
 */

const END_OF_CONTENTS = 0x06054b50;
const ENTRY = 0x02014b50;
const MEMBER = 0x04034b50;
const END_BYTES = 22;
const ENTRY_BYTES = 46;
const MEMBER_BYTES = 30;
const LONGEST_COMMENT = 0xffff;
// The server's own limit of a member.
const MOST_BYTES = 128 * 2 ** 20;
const [STORED, DEFLATED] = [0, 8];

/** There is no picture here: the archive is of a kind that is not read in the browser. */
export class NoPicture extends Error {}

/** A file as it was chosen. */
export class WholeFile {
  constructor(file) {
    this.file = file;
  }

  async blob() {
    return this.file;
  }
}

/** A zip archive, whose table of contents is read when the first of its members is asked for. */
export class Archive {
  constructor(file) {
    this.file = file;
    this.contents = null;
  }

  /** The member of this name: {blob()}. */
  member(name) {
    return { blob: () => this.unpack(name) };
  }

  async unpack(name) {
    this.contents ??= contentsOf(this.file);
    const entry = (await this.contents).get(name);
    if (!entry) throw new NoPicture(name);
    const head = await bytesOf(this.file, entry.offset, MEMBER_BYTES);
    if (head.getUint32(0, true) !== MEMBER) throw new NoPicture(name);
    const start = entry.offset + MEMBER_BYTES + head.getUint16(26, true) + head.getUint16(28, true);
    const packed = this.file.slice(start, start + entry.packed);
    if (entry.method === STORED) return packed;
    if (entry.method !== DEFLATED) throw new NoPicture(name);
    return inflated(packed);
  }
}

async function contentsOf(file) {
  const tail = await bytesOf(file, Math.max(0, file.size - END_BYTES - LONGEST_COMMENT), END_BYTES + LONGEST_COMMENT);
  let end = tail.byteLength - END_BYTES;
  while (end >= 0 && tail.getUint32(end, true) !== END_OF_CONTENTS) end -= 1;
  if (end < 0) throw new NoPicture(file.name);
  const table = await bytesOf(file, tail.getUint32(end + 16, true), tail.getUint32(end + 12, true));
  return new Map(entries(table));
}

function* entries(table) {
  const text = new TextDecoder();
  let at = 0;
  while (at + ENTRY_BYTES <= table.byteLength && table.getUint32(at, true) === ENTRY) {
    const lengths = [28, 30, 32].map((place) => table.getUint16(at + place, true));
    if (at + ENTRY_BYTES + lengths[0] > table.byteLength) return;
    const name = text.decode(new Uint8Array(table.buffer, at + ENTRY_BYTES, lengths[0]));
    const method = table.getUint16(at + 10, true);
    const [packed, offset] = [20, 42].map((place) => table.getUint32(at + place, true));
    yield [name, { method, packed, offset }];
    at += ENTRY_BYTES + lengths[0] + lengths[1] + lengths[2];
  }
}

async function bytesOf(file, start, length) {
  const bytes = await file.slice(start, start + length).arrayBuffer();
  if (bytes.byteLength < MEMBER_BYTES && bytes.byteLength < length) throw new NoPicture(file.name);
  return new DataView(bytes);
}

function inflated(packed) {
  let size = 0;
  const bounded = new TransformStream({
    transform(chunk, controller) {
      size += chunk.byteLength;
      if (size > MOST_BYTES) controller.error(new NoPicture("too large"));
      else controller.enqueue(chunk);
    },
  });
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate-raw")).pipeThrough(bounded);
  // A damaged member: whatever the stream calls it, there is no picture.
  return new Response(stream).blob().catch(({ message }) => Promise.reject(new NoPicture(message)));
}

/** Whether an error means that there is no picture: the browser cannot decode it, the file has gone, the archive is odd. */
export function isNoPicture(error) {
  return error instanceof NoPicture || error instanceof DOMException;
}
