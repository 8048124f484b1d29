/* A list of cells: one card each, moved through with the arrow keys.
 *
 * In: entries in the order in which they shall stand. Out: cards; events "show" {entry, isChosen} when one is hovered, focused
 * or chosen. Cards are kept and moved, not made anew: focus and pictures stay.
 */

import { element, say } from "./elements.js";
import { meaning, percent, sentence, seenWords, visible } from "./wording.js";

const DWELL_MS = 250;

/** One cell as a button: picture, decision, probability, its meaning, name. */
class Card {
  constructor(entry, results) {
    this.entry = entry;
    this.results = results;
    this.decided = undefined;
    this.canvas = element("canvas", { "aria-hidden": "true", width: "0", height: "0" });
    this.mark = element("span", { class: "mark", "aria-hidden": "true" });
    this.decision = element("span", {});
    this.chance = element("span", { class: "chance" });
    this.fill = element("span", {});
    this.meaning = element("span", { class: "meaning" });
    this.button = element("button", { type: "button", class: "cell", tabIndex: -1 }, ...this.parts());
    this.item = element("li", { class: "card" }, this.button);
    this.item.card = this;
  }

  parts() {
    const { row } = this.entry;
    return [
      element("span", { class: "picture" }, element("span", { class: "placeholder" }, noPicture(this.entry)), this.canvas),
      element("span", { class: "says" }, element("span", { class: "decision" }, this.mark, this.decision), " ", this.chance),
      element("span", { class: "bar", "aria-hidden": "true" }, this.fill),
      this.meaning,
      row.refusal ? element("span", { class: "refusal" }, sentence(row.refusal)) : null,
      element("bdi", { class: "name", title: visible(row.input) }, visible(row.input)),
      row.seen_in ? element("span", { class: "tag" }, seenWords(row.seen_in)) : null,
    ];
  }

  /** Write what depends on the threshold. */
  update() {
    const { results } = this;
    const { row } = this.entry;
    const decided = results.decide(row);
    if (decided === this.decided) return null;
    this.decided = decided;
    const isPositive = results.positive.includes(decided);
    const chance = results.chance(row) ?? results.confidence(row);
    const asked = results.positive.length ? results.model.positive_name : decided;
    this.fill.style.inlineSize = `${100 * chance}%`;
    say(this.chance, `${asked} ${percent(chance)}`);
    // A refused cell has a probability, but nothing on its card may read as an answer.
    if (row.refusal) return say(this.decision, "no answer");
    this.item.dataset.call = isPositive ? "positive" : "negative";
    say(this.decision, decided);
    return say(this.meaning, meaning(chance, asked));
  }
}

/** Cards in a list element. */
export class Gallery extends EventTarget {
  constructor(list, results, thumbnails) {
    super();
    Object.assign(this, { list, results, thumbnails, cards: new Map(), current: null, dwell: 0 });
    list.addEventListener("keydown", (event) => this.moved(event));
    list.addEventListener("click", (event) => this.pointed(event, true));
    list.addEventListener("focusin", (event) => this.focused(event));
    list.addEventListener("pointerover", (event) => this.hovered(event));
    list.addEventListener("pointerleave", () => clearTimeout(this.dwell));
  }

  /** Show exactly these entries, in this order. */
  show(entries) {
    const wanted = new Set(entries.map((entry) => entry.key));
    for (const [key, card] of this.cards) if (!wanted.has(key)) this.drop(key, card);
    const focused = document.activeElement;
    // All cards first: making one takes that of an earlier result for the same file out of the list.
    const items = entries.map((entry) => this.card(entry).item);
    let next = this.list.firstElementChild;
    for (const item of items) {
      if (item === next) next = next.nextElementSibling;
      else this.list.insertBefore(item, next);
    }
    for (const card of this.cards.values()) card.update();
    // A card that is moved loses the focus.
    if (focused !== document.activeElement && this.list.contains(focused)) focused.focus({ preventScroll: true });
    this.keepReachable();
  }

  card(entry) {
    const known = this.cards.get(entry.key);
    if (known?.entry === entry) return known;
    if (known) this.drop(entry.key, known);
    const made = new Card(entry, this.results);
    this.cards.set(entry.key, made);
    this.thumbnails.watch(made.canvas, entry.picture);
    return made;
  }

  drop(key, card) {
    this.thumbnails.forget(card.canvas);
    card.item.remove();
    this.cards.delete(key);
  }

  /** One card takes part in the order of the Tab key: the last one focused, or the first. */
  keepReachable() {
    if (this.current?.item.isConnected) return;
    this.current = this.list.firstElementChild?.card ?? null;
    if (this.current) this.current.button.tabIndex = 0;
  }

  focused({ target }) {
    const card = cardOf(target);
    if (!card || card === this.current) return this.tell(card, false);
    if (this.current) this.current.button.tabIndex = -1;
    this.current = card;
    card.button.tabIndex = 0;
    return this.tell(card, false);
  }

  hovered(event) {
    clearTimeout(this.dwell);
    const card = cardOf(event.target);
    if (card && event.pointerType === "mouse") this.dwell = setTimeout(() => this.tell(card, false), DWELL_MS);
  }

  pointed(event, isChosen) {
    clearTimeout(this.dwell);
    this.tell(cardOf(event.target), isChosen);
  }

  tell(card, isChosen) {
    if (card) this.dispatchEvent(new CustomEvent("show", { detail: { entry: card.entry, card, isChosen } }));
  }

  moved(event) {
    const card = cardOf(event.target);
    if (!card || event.altKey || event.ctrlKey || event.metaKey) return;
    const items = this.list.children;
    const to = target(event.key, [...items].indexOf(card.item), items.length, this.columns());
    if (to === null) return;
    event.preventDefault();
    items[to].card.button.focus();
    items[to].scrollIntoView({ block: "nearest" });
  }

  columns() {
    return getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
  }
}

/** Where a key leads from a place in a grid; null where it leads nowhere. Page keys move four rows. */
export function target(key, from, length, columns) {
  const steps = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    PageDown: 4 * columns,
    PageUp: -4 * columns,
    Home: -from,
    End: length - 1 - from,
  };
  if (!(key in steps)) return null;
  const to = from + steps[key];
  if (to >= 0 && to < length) return to;
  return key.startsWith("Page") ? Math.max(0, Math.min(length - 1, to)) : null;
}

/** What stands in place of a picture that the browser does not have or cannot show. */
export function noPicture({ row }) {
  const suffix = row.input.split(".").at(-1).slice(0, 5).toUpperCase();
  return `${visible(suffix)}: no picture in this browser`;
}

function cardOf(target) {
  return target.closest?.(".card")?.card ?? null;
}
