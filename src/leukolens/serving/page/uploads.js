/* Files on their way to the server: cut into requests within its limits, sent two at a time, tried again where it is busy.
 *
 * In: files with the names they shall have. Out: events "row" {row, picture, place}, "state" and "denied" (a token is needed).
 * A request that fails keeps the files that have no row yet, and can be sent again.
 */

import { predict, ServerError } from "./api.js";
import { Archive, WholeFile } from "./pictures.js";
import { count } from "./wording.js";

// Smaller than the server allows: results, progress and a retry then come in small pieces.
const MOST_FILES = 64;
const MOST_BYTES = 32 * 2 ** 20;
// What multipart adds to a file: boundary, headers, and a name of which every letter may take three bytes and be escaped.
const PART_BYTES = 512;
const NAME_BYTES = 9;
const LANES = 2;
const TRIES = 8;
const BUSY = new Set([429, 503]);
const LONGEST_WAIT_S = 60;
const UNREADABLE = "a folder, or a file that has changed or gone since it was chosen";
const ZIP_STARTS = ["PK\u0003\u0004", "PK\u0005\u0006", "PK\u0007\b"];

/** Files in one request. state: waiting, sending, busy, done, failed or cancelled. */
class Batch {
  constructor(files) {
    this.files = files;
    this.state = "waiting";
    this.error = null;
    this.tries = 0;
    this.membersKnown = 0;
  }
}

/** Whether the content of a file begins as that of a zip archive does; names are not believed. */
export async function isArchive(file) {
  const bytes = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  return ZIP_STARTS.includes(String.fromCharCode(...bytes));
}

/** Cut files {file, name, place, archive} into requests; those that no request can hold come back as `tooLarge`. */
export function cut(files, limits) {
  const mostFiles = Math.min(MOST_FILES, limits.max_files);
  const mostBytes = Math.min(MOST_BYTES, limits.max_request_bytes);
  const batches = [];
  const tooLarge = [];
  let batch = [];
  let bytes = 0;
  const close = () => {
    if (batch.length) batches.push(new Batch(batch));
    [batch, bytes] = [[], 0];
  };
  for (const each of files) {
    const size = each.file.size + PART_BYTES + NAME_BYTES * each.name.length;
    if (size > limits.max_request_bytes || each.file.size > mostOf(each, limits)) {
      tooLarge.push(each);
      continue;
    }
    if (each.archive || batch.length === mostFiles || bytes + size > mostBytes) close();
    batch.push(each);
    bytes += size;
    if (each.archive) close();
  }
  close();
  return { batches, tooLarge };
}

function mostOf(file, limits) {
  return file.archive ? limits.max_request_bytes : (limits.max_file_bytes ?? limits.max_request_bytes);
}

/** All files of this visit. */
export class Uploads extends EventTarget {
  constructor() {
    super();
    this.reset();
  }

  /** Stop everything and forget it. */
  reset() {
    this.abort?.abort();
    this.abort = new AbortController();
    this.batches = [];
    this.files = [];
    this.lanes = 0;
  }

  /** Take files {file, name} in, under a model and limits of /v1/models, and begin to send them. */
  async send(files, model, limits) {
    this.limits = limits;
    this.model = model;
    const first = this.files.length;
    const placed = files.map(({ file, name }, index) => ({ file, name, place: first + index, archive: false }));
    this.files.push(...placed);
    const { signal } = this.abort;
    await Promise.all(placed.map((each) => this.sniff(each)));
    if (signal.aborted) return;
    const { batches, tooLarge } = cut(placed.filter((each) => !each.unreadable), limits);
    for (const each of tooLarge) this.fail(each, "too_large", sizes(each, limits));
    for (const each of placed.filter((one) => one.unreadable)) this.fail(each, "no_permission", UNREADABLE);
    this.batches.push(...batches);
    this.go();
  }

  async sniff(each) {
    try {
      each.archive = await isArchive(each.file);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      each.unreadable = true;
    }
  }

  /** Give a file its row without asking the server. */
  fail({ name, place }, error, detail) {
    this.tell("row", { row: { input: name, status: "failed", error, detail }, picture: null, place: [place, 0] });
  }

  /** Stop: what has no result yet is kept as cancelled. */
  cancel() {
    this.abort.abort();
    this.abort = new AbortController();
    for (const batch of this.batches) {
      if (["waiting", "sending", "busy"].includes(batch.state)) batch.state = "cancelled";
    }
    this.lanes = 0;
    this.tell("state");
  }

  /** Send again what failed or was cancelled. */
  retry() {
    for (const batch of this.unsent) Object.assign(batch, { state: "waiting", error: null, tries: 0 });
    this.go();
  }

  /** Requests that failed or were cancelled. */
  get unsent() {
    return this.batches.filter((batch) => batch.state === "failed" || batch.state === "cancelled");
  }

  /** Whether something is on its way. */
  get isBusy() {
    return this.batches.some((batch) => ["waiting", "sending", "busy"].includes(batch.state));
  }

  go() {
    this.tell("state");
    while (this.lanes < LANES && this.batches.some((batch) => batch.state === "waiting")) {
      this.lanes += 1;
      this.lane(this.abort.signal);
    }
  }

  async lane(signal) {
    for (let batch = this.next(); batch && !signal.aborted; batch = this.next()) {
      await this.transmit(batch, signal);
      if (signal.aborted) return;
      this.tell("state");
    }
    if (!signal.aborted) this.lanes -= 1;
  }

  next() {
    return this.batches.find((batch) => batch.state === "waiting");
  }

  /** Send one request until it is answered, its tries are used up, or the visit is over. */
  async transmit(batch, signal) {
    batch.state = "sending";
    while (!signal.aborted) {
      try {
        await this.receive(batch, signal);
        if (!signal.aborted) batch.state = "done";
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(await this.mayTryAgain(batch, error, signal))) return;
      }
    }
  }

  async mayTryAgain(batch, error, signal) {
    if (!(error instanceof ServerError)) error = new ServerError(0, unreadable(error));
    if (error.status === 401) this.tell("denied", error);
    batch.tries += 1;
    if (!BUSY.has(error.status) || batch.tries >= TRIES) {
      Object.assign(batch, { state: "failed", error: error.error });
      return false;
    }
    batch.state = "busy";
    batch.wait = Math.min(error.after ?? 2 ** batch.tries, LONGEST_WAIT_S);
    this.tell("state");
    await waited(batch.wait, signal);
    if (!signal.aborted) batch.state = "sending";
    return true;
  }

  async receive(batch, signal) {
    // A row knows its file by its place in the request; members of an archive share one, which then is alone in its request.
    const sent = [...batch.files];
    const known = batch.membersKnown;
    let rows = 0;
    let isWhole = false;
    for await (const said of predict(sent, this.model.name, signal)) {
      if (signal.aborted) return;
      if (said.counts) isWhole = true;
      if (!said.row) continue;
      rows += 1;
      if (rows > known) this.take(batch, sent[said.row.index], said.row, rows - 1);
    }
    if (!isWhole) throw new ServerError(0, { message: "The answer was cut off.", remedy: "try again" });
  }

  take(batch, from, row, position) {
    if (from.archive) {
      batch.membersKnown = position + 1;
      return this.tell("row", ofMember(from, row, position));
    }
    batch.files = batch.files.filter((each) => each !== from);
    // The form that carries it writes some letters of a name otherwise.
    return this.tell("row", { row: { ...row, input: from.name }, picture: new WholeFile(from.file), place: [from.place, 0] });
  }

  tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** A row called `archive.zip/member`, or `archive.zip` where the server refused all of it. */
function ofMember(from, row, position) {
  const member = row.input.split("/").slice(from.name.split("/").length).join("/");
  from.contents ??= new Archive(from.file);
  const input = member ? `${from.name}/${member}` : from.name;
  return { row: { ...row, input }, picture: from.contents.member(member), place: [from.place, position] };
}

function sizes(each, limits) {
  return `${count(each.file.size)} bytes; the server takes ${count(mostOf(each, limits))}`;
}

function unreadable(error) {
  return { message: "The answer cannot be read.", received: `${error.name}: ${error.message}`, remedy: "try again" };
}

function waited(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
