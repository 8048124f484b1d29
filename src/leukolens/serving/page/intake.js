/* Files that the user drops or chooses: single ones, several, archives, folders.
 *
 * In: events of the drop zone and of the two choosers. Out: event "files" {files: [{file, name}], skipped}. As with
 * `leukolens predict`, everything that is named counts, whatever it holds; of folders only what ends as images or archives do.
 */

import { byId } from "./elements.js";

const WANTED = /\.(bmp|png|jpe?g|tiff?|webp|zip)$/i;
const HIDDEN = /(^|\/)(\.|__MACOSX\/)/;

/** Takes files in. */
export class Intake extends EventTarget {
  constructor() {
    super();
    for (const id of ["choose-files", "choose-folder"]) {
      byId(id).addEventListener("change", ({ target }) => this.chosen(target));
    }
    this.watchDrops();
  }

  chosen(input) {
    const isFolder = input.id === "choose-folder";
    const files = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
    // So that the same file can be chosen again.
    input.value = "";
    this.tell(isFolder ? wanted(files) : { files, skipped: 0 });
  }

  watchDrops() {
    const zone = byId("drop");
    let depth = 0;
    const mark = (change) => {
      depth = Math.max(0, depth + change);
      zone.classList.toggle("over", depth > 0);
    };
    // Anywhere on the page, so that a file that misses the zone does not open in place of the page.
    addEventListener("dragenter", () => mark(1));
    addEventListener("dragleave", () => mark(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      mark(-depth);
      this.dropped(event.dataTransfer);
    });
  }

  async dropped(transfer) {
    // The items are gone once the event is over: entries are taken before anything is waited for.
    const items = [...transfer.items].filter((item) => item.kind === "file");
    const entries = items.map((item) => item.webkitGetAsEntry?.() ?? null);
    const plain = items.filter((_, index) => !entries[index]?.isDirectory).map((item) => item.getAsFile());
    const named = plain.filter(Boolean).map((file) => ({ file, name: file.name }));
    const below = await Promise.all(entries.filter((entry) => entry?.isDirectory).map(walk));
    const { files, skipped } = wanted(below.flat());
    this.tell({ files: [...named, ...files], skipped });
  }

  tell(detail) {
    if (detail.files.length || detail.skipped) this.dispatchEvent(new CustomEvent("files", { detail }));
  }
}

/** Of the files of folders those that end as images or archives do, in the order of their paths; the others are counted. */
export function wanted(files) {
  const kept = files.filter(({ name }) => WANTED.test(name) && !HIDDEN.test(name));
  kept.sort((a, b) => (a.name < b.name ? -1 : Number(a.name > b.name)));
  return { files: kept, skipped: files.length - kept.length };
}

async function walk(folder) {
  const found = [];
  for (const entry of await children(folder)) {
    if (entry.isDirectory) found.push(...(await walk(entry)));
    else found.push({ file: await fileOf(entry), name: entry.fullPath.replace(/^\//, "") });
  }
  return found;
}

async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  // A reader gives some of the entries at a time, and none when it is through.
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}

function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}
