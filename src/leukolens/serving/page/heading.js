/* What stands above the results: which model answers, what it was made of, and what to beware of.
 *
 * In: a model of /v1/models. Out: the heading and the banners of the page.
 */

import { byId, element, say } from "./elements.js";
import { counted, either, percent } from "./wording.js";

const SYNTHETIC = "This model has learned from cells drawn by a program, of no patient. Of real cells its scores say nothing.";
const OPTIMISTIC =
  "This model was trained and validated on a split by image: cells of one patient were on both sides. " +
  "Its thresholds and error rates look better than they are for new patients.";

/** Write the heading for a model. */
export function describe(model) {
  document.title = `${model.display_name} – leukolens`;
  say(byId("headline"), headline(model));
  const pairs = facts(model).flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
  byId("model-facts").replaceChildren(...pairs);
  byId("model-notes").replaceChildren(...(model.notes ?? []).map((text) => element("li", {}, text)));
  byId("banners").replaceChildren(...banners(model));
}

/** What the model is asked and what it answers, as a sentence. */
export function headline(model) {
  const { positive_name: positive, classes } = model;
  const others = classes.filter((name) => !(model.positive ?? []).includes(name));
  const each = `how probable each of ${either(classes, "and")} is`;
  const asked = model.positive?.length ? `how probable ${positive} is, against ${either(others)}` : each;
  return `${model.display_name} says for each picture of one cell ${asked}; or it does not answer.`;
}

function facts(model) {
  const groups = model.validation_groups ? ` of ${counted(model.validation_groups, "subject group")}` : "";
  return [
    ["Network", `${model.display_name} (${model.architecture})`],
    ["Pretrained on", model.trained_on],
    ["Decision fitted on", `${counted(model.validation_images, "validation image")}${groups}`],
    ["Threshold chosen for", model.aim ? model.aim.replaceAll("_", " ") : null],
    ["Sets of classes", `wrong for at most ${percent(model.miscoverage)} of new subjects' cells, on average`],
    ["Engine", model.engine],
    ["Run", model.run_hash],
    ["Decision", model.decision_hash],
  ].filter(([, text]) => text);
}

function banners(model) {
  const made = [];
  if (model.synthetic) made.push(["SYNTHETIC MODEL.", SYNTHETIC]);
  if (model.optimistic) made.push(["OPTIMISTIC MODEL.", OPTIMISTIC]);
  return made.map(([title, text]) => element("p", { class: "banner" }, element("strong", {}, title), " ", text));
}
