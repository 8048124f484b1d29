/* The page as a whole: who tells whom what.
 *
 * In: the models of the server, the files of the user. Out: everything on the page. Writes: nothing on disk but what the user
 * downloads; nothing outlasts the tab.
 */

import { askForToken, offerToForget } from "./access.js";
import { readModels } from "./api.js";
import { scoresCsv } from "./csv.js";
import { byId, element, problem, say } from "./elements.js";
import { Gallery } from "./gallery.js";
import { describe } from "./heading.js";
import { Inspector } from "./inspector.js";
import { Intake } from "./intake.js";
import { Maps } from "./maps.js";
import { PatientPanel } from "./patient.js";
import { prepare, printReport, tidy } from "./printing.js";
import { ANSWERED, Entry, FAILED, REFUSED, Results } from "./results.js";
import { short, ThresholdPanel } from "./threshold.js";
import { Thumbnails } from "./thumbnails.js";
import { Uploads } from "./uploads.js";
import { count, counted, failureWords, visible } from "./wording.js";

const REDRAW_MS = 200;
const SPOKEN_MS = 5000;
const MEGABYTE = 2 ** 20;

const results = new Results();
const uploads = new Uploads();
const maps = new Maps();
const thumbnails = new Thumbnails();
const patient = new PatientPanel(results);
const thresholds = new ThresholdPanel(results);
const inspector = new Inspector(results, maps);
const galleries = {
  [ANSWERED]: new Gallery(byId("answered"), results, thumbnails),
  [REFUSED]: new Gallery(byId("refused"), results, thumbnails),
};
const failedRows = new Map();
let server = null;
let chosen = [];
// Files that came before the server had said who answers.
const early = [];
let filter = "all";
let redrawing = 0;
let spokenAt = 0;

async function begin() {
  try {
    server = await readModels();
  } catch (error) {
    if (error.status === 401 && (await askForToken())) return begin();
    if (!error.error) throw error;
    return trouble(error.error, begin);
  }
  byId("trouble").replaceChildren();
  for (const id of ["model", "intake"]) byId(id).hidden = false;
  byId("report-link").hidden = !server.results;
  say(byId("version"), `leukolens ${server.version}.`);
  say(byId("limits"), limitWords(server.limits));
  offerToForget();
  offerModels();
  take(server.models[0]);
  return early.splice(0).forEach(taken);
}

/** Say what went wrong, with a button that tries again. */
function trouble(error, again) {
  const button = element("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  byId("trouble").replaceChildren(problem(error), button);
}

function limitWords(limits) {
  const most = limits.max_file_bytes ?? limits.max_request_bytes;
  const [megabytes, megapixels] = [most / MEGABYTE, limits.max_pixels / 1e6].map((value) => count(Math.floor(value)));
  return `A picture may have ${megabytes} MB and ${megapixels} megapixels.`;
}

function offerModels() {
  byId("model-choice").hidden = server.models.length < 2;
  const option = ({ name, display_name: shown }) => element("option", { value: name }, `${name} (${shown})`);
  byId("model-name").replaceChildren(...server.models.map(option));
}

/** Answer by another model: what is on the page is of the old one, so the same files are sent anew. */
function take(model) {
  const again = chosen;
  startAnew();
  results.clear(model);
  describe(model);
  thresholds.take(model);
  for (const place of document.querySelectorAll(".positive-name")) say(place, model.positive_name ?? "");
  offerFilters();
  if (again.length) send(again);
}

function startAnew() {
  uploads.reset();
  maps.clear();
  inspector.clear();
  patient.clear();
  failedRows.clear();
  byId("failed").replaceChildren();
  if (results.model) results.clear(results.model);
  if (results.model) thresholds.take(results.model);
  chosen = [];
  write();
}

function offerFilters() {
  const classes = results.model.classes.map((name) => [`class:${name}`, name]);
  const kinds = [["all", "All"], ...classes, [REFUSED, "Not answered"], [FAILED, "Without a score"], ["seen", "Seen before"]];
  const made = kinds.map(([value, name]) => {
    const input = element("input", { type: "radio", name: "filter", value, class: "unseen" });
    input.checked = value === "all";
    return element("label", { class: "chip" }, input, element("span", {}, name, " ", element("b", {}, "0")));
  });
  filter = "all";
  byId("filter").replaceChildren(byId("filter").querySelector("legend"), ...made);
}

function send(files) {
  chosen = [...chosen, ...files];
  uploads.send(files, results.model, server.limits);
  redraw();
}

/** Write everything anew soon: rows come in by the hundred. */
function redraw() {
  if (!redrawing) redrawing = setTimeout(write, REDRAW_MS);
}

function write() {
  clearTimeout(redrawing);
  redrawing = 0;
  byId("results").hidden = !results.entries.length;
  byId("intake").classList.toggle("small", chosen.length > 0);
  writeUploads();
  if (!results.model) return;
  const counts = results.counts();
  writeCounts(counts);
  writeLists();
  thresholds.draw(results.positive.length ? results.of(ANSWERED) : []);
  inspector.update();
}

function writeCounts(counts) {
  const kind = (name) => (results.positive.includes(name) ? "positive" : "negative");
  const figures = [
    figure(counts.all, "inputs"),
    ...Object.entries(counts.decisions).map(([name, number]) => figure(number, name, kind(name))),
    figure(counts.refused, "not answered"),
    figure(counts.failed, "without a score"),
  ];
  if (counts.seen) figures.push(figure(counts.seen, "seen before by the model"));
  byId("figures").replaceChildren(...figures);
  const numbers = { all: counts.all, refused: counts.refused, failed: counts.failed, seen: counts.seen };
  for (const input of byId("filter").querySelectorAll("input")) {
    const number = numbers[input.value] ?? counts.decisions[input.value.slice("class:".length)];
    say(input.nextElementSibling.lastElementChild, count(number));
  }
  const said = cautions(counts);
  byId("cautions").hidden = !said.length;
  byId("cautions").replaceChildren(...said.map((text) => element("li", {}, text)));
  byId("csv").disabled = byId("print").disabled = !counts.all;
}

/** What a reader of the figures must know of them. */
function cautions({ seen, answered, refused }) {
  const said = [];
  const known = `${counted(seen, "cell")} the model has seen in training or validation`;
  const few = `The model answers only ${count(answered)} of ${count(answered + refused)} cells`;
  if (seen) said.push(`${known}: what it says of them is no evidence of how good it is.`);
  if (refused > answered) said.push(`${few}: shares of these few say little of all.`);
  return said;
}

function figure(value, name, kind = null) {
  const mark = kind ? element("span", { class: "mark", "aria-hidden": "true" }) : null;
  const number = element("b", {}, mark, count(value));
  return element("li", { "data-call": kind }, number, " ", element("span", { class: "name" }, name));
}

function writeLists() {
  const view = results.view(filter, byId("sort").value);
  const of = (standing) => view.filter((entry) => entry.standing === standing);
  for (const [standing, gallery] of Object.entries(galleries)) gallery.show(of(standing));
  byId("refused-part").hidden = !of(REFUSED).length;
  byId("failed-part").hidden = !of(FAILED).length;
  byId("answered-part").hidden = !of(ANSWERED).length && view.length > 0;
  byId("nothing").hidden = view.length > 0 || !results.entries.length;
  say(byId("refused-title"), `Not answered (${count(of(REFUSED).length)})`);
  say(byId("failed-title"), `Without a score (${count(of(FAILED).length)})`);
  byId("failed").append(...of(FAILED).map(failedRow));
}

function failedRow({ key, row }) {
  if (!failedRows.has(key)) {
    const name = element("th", { scope: "row" }, element("bdi", {}, visible(row.input)));
    const found = element("td", {}, element("bdi", {}, visible(row.detail ?? "")));
    failedRows.set(key, element("tr", {}, name, element("td", {}, failureWords(row.error)), found));
  }
  return failedRows.get(key);
}

function writeUploads() {
  const total = uploads.files.length;
  const left = uploads.batches.flatMap((batch) => (batch.state === "done" ? [] : batch.files)).length;
  byId("uploads").hidden = !total;
  Object.assign(byId("progress"), { max: total || 1, value: total - left });
  byId("progress").hidden = !uploads.isBusy;
  byId("cancel").hidden = !uploads.isBusy;
  const words = progressWords(total, left);
  say(byId("progress-words"), words);
  writeUnsent();
  if (performance.now() - spokenAt > SPOKEN_MS || !uploads.isBusy) {
    spokenAt = performance.now();
    say(byId("spoken"), total ? words : "");
  }
}

function progressWords(total, left) {
  const counts = results.model ? results.counts() : { all: 0 };
  const waiting = uploads.batches.filter((batch) => batch.state === "busy").map((batch) => batch.wait);
  const busy = waiting.length ? ` The server is busy; trying again in ${Math.max(...waiting)} s.` : "";
  const done = `${count(total - left)} of ${counted(total, "file")} done: ${counted(counts.all, "result")}`;
  return `${done}, ${count(counts.refused ?? 0)} not answered, ${count(counts.failed ?? 0)} without a score.${busy}`;
}

function writeUnsent() {
  const { unsent } = uploads;
  byId("unsent").hidden = !unsent.length || uploads.isBusy;
  byId("unsent-list").replaceChildren(...unsent.map((batch) => element("li", {}, unsentWords(batch))));
}

function unsentWords(batch) {
  const more = batch.files.length - 1;
  const names = visible(batch.files[0].name) + (more ? ` and ${counted(more, "more file")}` : "");
  if (batch.state === "cancelled") return `${names}: cancelled.`;
  return `${names}: ${[batch.error.message, batch.error.received, batch.error.remedy].filter(Boolean).join(" – ")}`;
}

function download() {
  const decide = (row) => results.decide(row);
  const moved = results.moved === null ? null : { threshold: results.moved, decide };
  const rows = results.view("all", "given").map(({ row }) => row);
  const url = URL.createObjectURL(new Blob([scoresCsv(rows, results.model.classes, moved)], { type: "text/csv" }));
  const name = moved ? `scores-threshold-${short(moved.threshold)}.csv` : "scores.csv";
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 0);
}

function listen() {
  new Intake().addEventListener("files", ({ detail }) => taken(detail));
  uploads.addEventListener("row", ({ detail }) => {
    results.add(new Entry(detail.row, detail.picture, detail.place));
    patient.update();
    redraw();
  });
  uploads.addEventListener("state", redraw);
  uploads.addEventListener("denied", async () => (await askForToken()) && uploads.retry());
  thresholds.addEventListener("moved", () => {
    write();
    patient.update();
  });
  for (const gallery of Object.values(galleries)) gallery.addEventListener("show", ({ detail }) => inspector.show(detail));
  listenToControls();
}

function taken({ files, skipped }) {
  if (!server) return void early.push({ files, skipped });
  const left = `${counted(skipped, "file")} of the folder left out: hidden, or not named as images are.`;
  byId("trouble").replaceChildren(...(skipped ? [element("p", { class: "beware" }, left)] : []));
  if (files.length) send(files);
}

function listenToControls() {
  byId("cancel").addEventListener("click", () => uploads.cancel());
  byId("retry").addEventListener("click", () => uploads.retry());
  byId("sort").addEventListener("change", write);
  byId("filter").addEventListener("change", ({ target }) => {
    filter = target.value;
    write();
  });
  byId("csv").addEventListener("click", download);
  byId("print").addEventListener("click", () => printReport({ results, patient, thresholds, notice: server.notice }));
  byId("clear").addEventListener("click", startAnew);
  byId("model-name").addEventListener("change", ({ target }) => take(server.models.find(({ name }) => name === target.value)));
  addEventListener("beforeprint", () => {
    const isReady = byId("printed").childElementCount > 0;
    if (!isReady && results.entries.length) prepare({ results, patient, thresholds, notice: server.notice });
  });
  addEventListener("afterprint", tidy);
  addEventListener("beforeunload", (event) => uploads.isBusy && event.preventDefault());
}

listen();
begin();
