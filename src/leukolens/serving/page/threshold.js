/* The slider of the threshold, the error rates of validation there, and how the cells are spread over the probabilities.
 *
 * In: a model of /v1/models and the results. Out: the panel #threshold; event "moved" with the threshold, null at the validated
 * one. Where the model brings the error rates, the slider stands only on thresholds that they were measured at.
 */

import { byId, say } from "./elements.js";
import { counted, percent } from "./wording.js";

const STEPS = 100;
const BINS = 40;
const SVG = "http://www.w3.org/2000/svg";
const BIN_WIDTH = 10;
const HEIGHT = 60;

/** The panel. */
export class ThresholdPanel extends EventTarget {
  constructor(results) {
    super();
    this.results = results;
    this.slider = byId("slider");
    this.slider.addEventListener("input", () => this.move());
    byId("threshold-back").addEventListener("click", () => this.back());
    this.bars = drawn();
  }

  /** Take a model: the slider stands at its validated threshold; without one there is nothing to move. */
  take(model) {
    this.model = model;
    byId("threshold").hidden = model.threshold === null;
    if (model.threshold === null) return;
    this.stops = stopsOf(model);
    Object.assign(this.slider, { min: 0, max: this.stops.length - 1, step: 1 });
    this.place();
    this.write();
  }

  place() {
    this.slider.value = this.stops.findIndex((stop) => stop.isValidated);
  }

  move() {
    const stop = this.stops[this.slider.valueAsNumber];
    this.set(stop.isValidated ? null : stop.threshold);
  }

  back() {
    this.place();
    this.set(null);
    this.slider.focus();
  }

  set(moved) {
    this.results.moved = moved;
    this.write();
    this.dispatchEvent(new CustomEvent("moved", { detail: moved }));
  }

  write() {
    const stop = this.stops[this.slider.valueAsNumber];
    const shown = short(stop.threshold);
    const standing = stop.isValidated ? "as validated" : "moved";
    say(byId("threshold-value"), shown);
    say(byId("threshold-standing"), standing);
    byId("threshold-standing").classList.toggle("calm", stop.isValidated);
    this.slider.setAttribute("aria-valuetext", `${shown}, ${standing}. ${rates(stop, this.model)}`);
    byId("threshold-moved").hidden = stop.isValidated;
    say(byId("threshold-back-value"), short(this.model.threshold));
    say(byId("threshold-rates"), rates(stop, this.model));
    byId("threshold-line").setAttribute("x1", BINS * BIN_WIDTH * stop.threshold);
    byId("threshold-line").setAttribute("x2", BINS * BIN_WIDTH * stop.threshold);
  }

  /** Draw how many answered cells have which probability. */
  draw(entries) {
    const bins = new Array(BINS).fill(0);
    for (const { row } of entries) bins[Math.min(BINS - 1, Math.floor(BINS * this.results.chance(row)))] += 1;
    const most = Math.max(1, ...bins);
    this.bars.forEach((bar, index) => {
      const height = bins[index] ? Math.max(2, (HEIGHT * bins[index]) / most) : 0;
      bar.setAttribute("y", HEIGHT - height);
      bar.setAttribute("height", height);
      bar.setAttribute("class", (index + 0.5) / BINS >= this.results.threshold ? "above" : "below");
    });
    const above = entries.filter(({ row }) => this.results.chance(row) >= this.results.threshold).length;
    const words = `${counted(above, "answered cell")} at or above the threshold, ${entries.length - above} below it`;
    byId("spread").setAttribute("aria-label", words);
  }
}

/** Places of the slider, by threshold: {threshold, sensitivity, specificity, isValidated}; rates null where not recorded. */
export function stopsOf(model) {
  const points = model.operating_points ?? evenly();
  const stops = points.map((point) => ({ ...point, isValidated: point.threshold === model.threshold }));
  if (!stops.some((stop) => stop.isValidated)) {
    stops.push({ threshold: model.threshold, sensitivity: null, specificity: null, isValidated: true });
  }
  return stops.sort((a, b) => a.threshold - b.threshold);
}

function evenly() {
  return Array.from({ length: STEPS + 1 }, (_, step) => ({ threshold: step / STEPS, sensitivity: null, specificity: null }));
}

/** Sensitivity and specificity on validation, as a sentence. */
export function rates({ sensitivity, specificity }, model) {
  if (sensitivity === null || sensitivity === undefined) {
    return "Sensitivity and specificity at this threshold were not recorded when the model was trained.";
  }
  const images = counted(model.validation_images, "image");
  const on = `${images} of ${counted(model.validation_groups, "subject group")}`;
  return `On validation (${on}): sensitivity ${percent(sensitivity)}, specificity ${percent(specificity)}.`;
}

/** A threshold with as many digits as tell it from its neighbours. */
export function short(threshold) {
  return threshold.toFixed(3).replace(/0$/, "");
}

function drawn() {
  const bars = Array.from({ length: BINS }, (_, index) => {
    const bar = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: index * BIN_WIDTH + 1, width: BIN_WIDTH - 2, y: HEIGHT, height: 0 })) {
      bar.setAttribute(name, value);
    }
    return bar;
  });
  byId("spread-bars").replaceChildren(...bars);
  return bars;
}
