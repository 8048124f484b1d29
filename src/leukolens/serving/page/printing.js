/* The report on paper: one click, A4, nothing leaves the browser.
 *
 * In: results, the patient summary, the threshold. Out: the section #printed, which only print shows; it is emptied afterwards.
 */

import { byId, element } from "./elements.js";
import { figures, notes, patientLabel } from "./patient.js";
import { ANSWERED, FAILED, REFUSED } from "./results.js";
import { rates, short } from "./threshold.js";
import { draw } from "./thumbnails.js";
import { counted, failureWords, percent, refusalWords, seenWords, visible } from "./wording.js";

// More rows than these fill dozens of pages: the CSV has them all.
const MOST_ROWS = 1000;
const MOST_PICTURES = 40;

/** Prepare and open the browser's print dialogue. */
export async function printReport(session) {
  await prepare(session);
  print();
}

/** Fill #printed; pictures are drawn before it is done. */
export async function prepare({ results, patient, thresholds, notice }) {
  const answered = (order) => results.view("all", order).filter((entry) => entry.standing === ANSWERED);
  const pictures = answered("uncertain").slice(0, MOST_PICTURES);
  byId("printed").replaceChildren(
    ...heading(results.model, notice),
    ...overview(results, thresholds),
    ...patientPart(patient, results),
    ...contactSheet(pictures, results),
    ...table("Answered cells", answered("given"), answeredColumns(results)),
    ...table("Not answered", results.view(REFUSED, "given"), refusedColumns(results)),
    ...table("Without a score", results.view(FAILED, "given"), FAILED_COLUMNS),
  );
  const images = [...byId("printed").querySelectorAll("img")];
  await Promise.all(images.map((image, index) => fill(image, pictures[index].picture)));
}

/** Draw a picture small. A canvas that is not on the screen may come out of the printer black: its drawing is put off. */
async function fill(image, picture) {
  const canvas = element("canvas");
  await draw(canvas, picture);
  if (canvas.hidden) return image.replaceWith(element("div", { class: "blank" }, "no picture"));
  image.src = canvas.toDataURL();
  return image.decode();
}

/** Empty it again: its pictures take memory. */
export function tidy() {
  byId("printed").replaceChildren();
}

function heading(model, notice) {
  const label = patientLabel();
  const cautions = [...document.querySelectorAll("#banners .banner")].map((banner) => banner.cloneNode(true));
  return [
    element("h2", {}, label ? `Cells of ${visible(label)}` : "Scores of cells"),
    element("p", {}, `${model.display_name}, made with leukolens on ${new Date().toLocaleString("sv-SE")}. ${notice}`),
    ...cautions,
    element("p", { class: "soft" }, `model ${model.name}, run ${model.run_hash}`),
    element("p", { class: "soft" }, `decision ${model.decision_hash}, engine ${model.engine}`),
  ];
}

function overview(results, thresholds) {
  const counts = results.counts();
  const calls = Object.entries(counts.decisions).map(([name, number]) => `${number} ${name}`).join(", ");
  const others = `${counts.refused} not answered; ${counts.failed} without a score`;
  const parts = [`${counted(counts.all, "input")}: ${calls}; ${others}.`];
  if (counts.seen) parts.push(`${counts.seen} of them the model has seen in training or validation.`);
  const isMoved = results.moved !== null;
  const threshold = element("p", { class: isMoved ? "banner" : null }, thresholdWords(results, thresholds));
  return [element("p", { class: "lead" }, parts.join(" ")), threshold];
}

function thresholdWords(results, thresholds) {
  const { model, moved } = results;
  if (model.threshold === null) return "The most probable class decides.";
  const stop = thresholds.stops.find((each) => (moved === null ? each.isValidated : each.threshold === moved));
  const away = `moved by the user from ${short(model.threshold)}; no longer the validated one`;
  const standing = moved === null ? "as validated" : away;
  return `Called ${model.positive_name} from a probability of ${short(results.threshold)} (${standing}). ${rates(stop, model)}`;
}

function patientPart(patient, results) {
  if (!patient.summary) return [];
  const items = notes(patient.summary, results).map((text) => element("li", {}, text));
  const title = element("h3", {}, "If all cells are of one patient");
  return [title, ...figures(patient.summary, results.model.positive_name), element("ul", {}, ...items)];
}

function contactSheet(entries, results) {
  if (!entries.length) return [];
  const items = entries.map((entry) => {
    const chance = results.chance(entry.row) ?? results.confidence(entry.row);
    const words = `${results.decide(entry.row)} · ${results.model.positive_name || "probability"} ${percent(chance)}`;
    const caption = element("figcaption", {}, words, element("br"), visible(entry.row.input));
    return element("figure", {}, element("img", { alt: "" }), caption);
  });
  const title = element("h3", {}, `The ${counted(entries.length, "least certain answered cell")}`);
  return [title, element("div", { class: "sheet" }, ...items)];
}

function answeredColumns(results) {
  const moved = results.moved === null ? [] : [["Validated decision", (row) => row.decision]];
  return [
    ["Cell", (row) => visible(row.input)],
    ["Decision", (row) => results.decide(row)],
    ...moved,
    ...results.model.classes.map((name) => [name, (row) => percent(row[`probability_${name}`])]),
    ["", (row) => (row.seen_in ? seenWords(row.seen_in) : "")],
  ];
}

function refusedColumns(results) {
  return [
    ["Cell", (row) => visible(row.input)],
    ["Why", (row) => refusalWords(row.refusal)],
    ...results.model.classes.map((name) => [name, (row) => percent(row[`probability_${name}`])]),
  ];
}

const FAILED_COLUMNS = [
  ["Input", (row) => visible(row.input)],
  ["Why", (row) => failureWords(row.error)],
  ["Found", (row) => visible(row.detail ?? "")],
];

function table(title, entries, columns) {
  if (!entries.length) return [];
  const left = entries.length - MOST_ROWS;
  const head = element("tr", {}, ...columns.map(([name]) => element("th", { scope: "col" }, name)));
  const cells = (row) => columns.map(([, text]) => element("td", {}, text(row)));
  const rows = entries.slice(0, MOST_ROWS).map(({ row }) => element("tr", {}, ...cells(row)));
  return [
    element("h3", {}, `${title} (${entries.length})`),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
    left > 0 ? element("p", {}, `${counted(left, "more row")}: see the CSV file.`) : "",
  ];
}
