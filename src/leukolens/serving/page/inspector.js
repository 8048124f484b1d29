/* One cell looked at closely: its picture, the map beside it, and everything that the model says of it.
 *
 * In: entries that the gallery shows. Out: the panel #inspector. The picture is an object URL of the user's own file, revoked
 * when the next one comes.
 */

import { byId, element, say } from "./elements.js";
import { noPicture } from "./gallery.js";
import { isNoPicture } from "./pictures.js";
import { either, ofHundred, percent, refusalWords, seenWords, visible } from "./wording.js";

const METHODS = { gradcam: "Grad-CAM", eigencam: "Eigen-CAM" };

/** The panel beside the gallery; on a narrow screen a sheet at the bottom that a tap opens. */
export class Inspector {
  constructor(results, maps) {
    Object.assign(this, { panel: byId("inspector"), results, maps, entry: null, url: null });
    byId("inspector-close").addEventListener("click", () => this.close());
    byId("map-method").addEventListener("change", () => this.entry && this.map(this.entry));
    this.panel.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  /** Show an entry. isChosen: it was clicked, tapped or entered, so a sheet opens and its map is announced. */
  show({ entry, card, isChosen }) {
    if (isChosen) this.open(card);
    if (entry === this.entry) return;
    this.entry = entry;
    byId("inspector-empty").hidden = true;
    byId("inspected").hidden = false;
    say(byId("inspected-name"), visible(entry.row.input));
    this.picture(entry);
    this.facts(entry);
    this.map(entry);
  }

  /** Write the facts again, after the threshold has moved. */
  update() {
    if (this.entry) this.facts(this.entry);
  }

  /** Forget what is shown. */
  clear() {
    this.entry = null;
    this.revoke();
    this.close();
    byId("inspector-empty").hidden = false;
    byId("inspected").hidden = true;
  }

  open(card) {
    this.opener = card.button;
    this.panel.classList.add("open");
    document.querySelector(".card.chosen")?.classList.remove("chosen");
    card.item.classList.add("chosen");
    // The sheet may have covered it.
    card.item.scrollIntoView({ block: "nearest" });
  }

  close() {
    const wasOpen = this.panel.classList.contains("open");
    this.panel.classList.remove("open");
    document.querySelector(".card.chosen")?.classList.remove("chosen");
    if (wasOpen && this.opener?.isConnected) this.opener.focus();
  }

  revoke() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
  }

  async picture(entry) {
    this.revoke();
    const placeholder = element("span", { class: "placeholder" }, noPicture(entry));
    const blob = await entry.picture.blob().catch((error) => unlessNone(error));
    if (entry !== this.entry) return;
    const image = element("img", { alt: "The cell as it was sent" });
    image.addEventListener("error", () => image.replaceWith(placeholder));
    byId("inspected-picture").replaceChildren(blob ? image : placeholder);
    if (!blob) return;
    this.url = URL.createObjectURL(blob);
    image.src = this.url;
  }

  facts({ row }) {
    const { results } = this;
    const decided = results.decide(row);
    const pairs = [
      ["Decision", decided + (results.moved === null ? "" : " (at the moved threshold)")],
      ...results.model.classes.map((name) => [`Probability of ${name}`, percent(row[`probability_${name}`])]),
      ["That means", this.meant(row, decided)],
      row.refusal ? ["Not answered", refusalWords(row.refusal)] : null,
      ["Cannot be ruled out", setWords(row.prediction_set)],
      ["Unlikeness", unlikeness(row.outlier_score)],
      row.seen_in ? ["Seen before", `This very cell, ${seenWords(row.seen_in)}: its answer says nothing of new cells.`] : null,
    ];
    const made = pairs.filter(Boolean).flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
    byId("inspected-facts").replaceChildren(...made);
  }

  meant(row, decided) {
    const { results } = this;
    const chance = results.chance(row);
    return chance === null ? ofHundred(results.confidence(row), decided) : ofHundred(chance, results.model.positive_name);
  }

  async map(entry) {
    const holder = byId("inspected-map");
    const method = byId("map-method").value;
    if (!this.results.model.explain) return this.noMap("This server makes no maps of this model.");
    holder.classList.add("waiting");
    if (!this.maps.known(entry, method)) this.noMap("Map is made …");
    const map = await this.maps.of(entry, this.results.model.name, method);
    if (!map || entry !== this.entry || method !== byId("map-method").value) return null;
    holder.classList.remove("waiting");
    if (map.error) return this.noMap(["No map: ", map.error.message, map.error.remedy].filter(Boolean).join(" "));
    const alt = `${METHODS[method]} map over the cell. ${mapWords(map)}`;
    holder.replaceChildren(element("img", { alt, src: map.overlay }));
    return say(byId("map-words"), mapWords(map));
  }

  noMap(text) {
    byId("inspected-map").classList.toggle("waiting", text.endsWith("…"));
    byId("inspected-map").replaceChildren(element("span", { class: "placeholder" }, text));
    say(byId("map-words"), "");
  }
}

/** How much of a map lies on the cell, as a sentence. */
export function mapWords(map) {
  const shares = map.inside_share;
  if (shares === null || shares === undefined) return `No place stands out for ${map.class}.`;
  const peak = map.peak_inside ? "its peak is on the cell" : "its peak is beside the cell";
  return `${percent(shares, 0)} of the map is on the cell, which covers ${percent(map.cell_share, 0)} of the picture; ${peak}.`;
}

function unlessNone(error) {
  if (!isNoPicture(error)) throw error;
  return null;
}

function setWords(set) {
  const names = (set ?? "").split("|").filter(Boolean);
  return names.length ? either(names) : "no class fits";
}

function unlikeness(score) {
  if (score === null || score === undefined) return "–";
  const words = score > 1 ? "more than is accepted" : "accepted up to 1";
  return `${score.toFixed(2)} of the largest distance to training images (${words})`;
}
