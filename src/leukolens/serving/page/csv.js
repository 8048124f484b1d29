/* The table of results, byte for byte as `leukolens predict` writes scores.csv, plus the decision at a moved threshold.
 *
 * In: rows of /v1/predict and the classes. Out: text of a CSV file. Names come from strangers: no text breaks a line or is
 * computed by a spreadsheet.
 */

import { visible } from "./wording.js";

const BEFORE = ["input", "status", "score"];
const AFTER = ["decision", "prediction_set", "outlier_score", "refusal", "seen_in", "error", "detail"];
// Formulas of spreadsheets, full-width letters too; the apostrophe, so that one that was there can be told from one added.
const FORMULA_STARTS = /^[=+\-@'＝＋－＠]/u;
// From here on the table's writer gives an exponent; JavaScript's own text has one from 1e21.
const LEAST_EXPONENT = 1e10;

/** Columns of scores.csv for these classes, in their order. */
export function columnsOf(classes) {
  return [...BEFORE, ...classes.map((name) => `probability_${name}`), ...AFTER];
}

/**
 * The whole table.
 *
 * rows: results in the order of the inputs. classes: names in the model's order. moved: null where the validated threshold
 * stands; else {threshold, decide}, which adds the columns `moved_threshold` and `decision_at_moved_threshold` at the end.
 */
export function scoresCsv(rows, classes, moved = null) {
  const columns = columnsOf(classes);
  const added = moved ? ["moved_threshold", "decision_at_moved_threshold"] : [];
  const lines = [[...columns, ...added].map(quoted).join(",")];
  for (const row of rows) {
    const cells = columns.map((name) => cell(row[name]));
    if (moved) cells.push(cell(moved.threshold), cell(moved.decide(row)));
    lines.push(cells.join(","));
  }
  return lines.map((line) => `${line}\n`).join("");
}

/** Text for a cell of CSV: nothing unprintable, no formula, a backslash twice. */
export function safeText(text) {
  const printable = visible(text.replaceAll("\\", "\\\\"));
  return FORMULA_STARTS.test(printable) ? `'${printable}` : printable;
}

function cell(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "number" ? written(value) : quoted(safeText(value));
}

function written(value) {
  return Math.abs(value) >= LEAST_EXPONENT ? value.toExponential() : String(value);
}

function quoted(text) {
  return `"${text.replaceAll('"', '""')}"`;
}
