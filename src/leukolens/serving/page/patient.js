/* The share of positive cells, if all cells are of one patient: asked of the server, shown with what it does not contain.
 *
 * In: results. Out: the panel #patient. Only probabilities and counts are sent; the label of the patient stays in its field.
 */

import { ServerError, summarise } from "./api.js";
import { byId, element, problem } from "./elements.js";
import { ANSWERED } from "./results.js";
import { count, counted, interval, percent } from "./wording.js";

const QUIET_MS = 400;

/** The panel. */
export class PatientPanel {
  constructor(results) {
    Object.assign(this, { results, timer: 0, abort: null, summary: null });
  }

  /** Ask again soon: results have come in, or the threshold has moved. */
  update() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), QUIET_MS);
  }

  /** Forget the summary. */
  clear() {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.summary = null;
    byId("patient").hidden = true;
  }

  async ask() {
    const { results } = this;
    const answered = results.of(ANSWERED);
    byId("patient").hidden = !results.positive.length || !results.entries.length;
    if (byId("patient").hidden) return;
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    const asked = {
      probabilities: answered.map(({ row }) => results.chance(row)),
      threshold: results.moved,
      refused: results.of("refused").length,
      failed: results.of("failed").length,
    };
    try {
      const summary = await summarise(asked, results.model.name, signal);
      if (!signal.aborted) this.write(summary);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ServerError)) throw error;
      this.summary = null;
      byId("patient-figures").replaceChildren(problem(error.error));
    }
  }

  write(summary) {
    this.summary = summary;
    byId("patient-figures").replaceChildren(...figures(summary, this.results.model.positive_name));
    byId("patient-notes").replaceChildren(...notes(summary, this.results).map((text) => element("li", {}, text)));
  }
}

/** The figures of a summary as elements. */
export function figures(summary, name) {
  const made = [
    element("p", { class: "lead" }, `Share of ${name} cells: `, bold(summary.share), ...ends(summary.interval)),
    element("p", { class: "soft" }, `${summary.positive} of ${counted(summary.answered, "answered cell")}.`),
  ];
  if (summary.corrected_share !== null && summary.corrected_share !== undefined) {
    const rates = `sensitivity ${percent(summary.sensitivity)} and specificity ${percent(summary.specificity)}`;
    const words = `Corrected for ${rates} on validation: `;
    made.push(element("p", {}, words, bold(summary.corrected_share), ...ends(summary.corrected_interval)));
  }
  return made;
}

/** What the server says of its figures, and what it cannot know: cells that the model has seen. */
export function notes(summary, results) {
  const seen = results.of(ANSWERED).filter(({ row }) => row.seen_in).length;
  const known = `${count(seen)} of these cells the model has seen in training or validation: it knows their answer.`;
  return [...(seen ? [known] : []), ...(summary.notes ?? [])];
}

/** What the user calls the patient; read only to be printed. */
export function patientLabel() {
  return byId("patient-label").value.trim();
}

function bold(share) {
  return element("b", {}, percent(share));
}

function ends(both) {
  return both ? [" ", element("span", { class: "ends" }, `(95\u202f% interval ${interval(both)})`)] : [];
}
