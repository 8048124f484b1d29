/* All results of this visit, and the views of them: decided, counted, filtered, sorted.
 *
 * In: rows of /v1/predict with the files they came from. Out: entries in the order that is asked for. Nothing is stored.
 */

export const ANSWERED = "answered";
export const REFUSED = "refused";
export const FAILED = "failed";

/** One input: its row, its picture {blob()} (null where there is none), its place among all inputs. */
export class Entry {
  constructor(row, picture, place) {
    this.row = row;
    this.picture = picture;
    this.place = place;
    this.key = place.join(".");
  }

  get standing() {
    if (this.row.status !== "scored") return FAILED;
    return this.row.refusal ? REFUSED : ANSWERED;
  }
}

/** What is known of all inputs under one model. */
export class Results {
  constructor() {
    this.clear(null);
  }

  /** Forget every result. model: one of /v1/models. */
  clear(model) {
    this.model = model;
    this.entries = [];
    this.byKey = new Map();
    this.moved = null;
  }

  /** Add the result of an input; one for the same place is replaced. */
  add(entry) {
    if (this.byKey.has(entry.key)) this.entries = this.entries.filter((other) => other.key !== entry.key);
    this.byKey.set(entry.key, entry);
    this.entries.push(entry);
  }

  /** The threshold that decides now; null where the most probable class does. */
  get threshold() {
    return this.moved ?? this.model.threshold;
  }

  /** Names of the positive class or classes. */
  get positive() {
    return this.model.positive ?? [];
  }

  /** Probability of the positive class or the sum over several; null where none is named or there is no score. */
  chance(row) {
    if (row.status !== "scored" || !this.positive.length) return null;
    return this.positive.reduce((sum, name) => sum + row[`probability_${name}`], 0);
  }

  /** The class at the present threshold: the server's own decision unless the threshold was moved. */
  decide(row) {
    if (row.status !== "scored" || this.moved === null) return row.decision;
    const other = this.model.classes.find((name) => !this.positive.includes(name));
    return this.chance(row) >= this.moved ? this.positive[0] : other;
  }

  /** Probability of the class that is decided for. */
  confidence(row) {
    return row[`probability_${this.decide(row)}`];
  }

  /** Distance of the decision from the point where it would turn: the present threshold, or the second class. */
  certainty(row) {
    if (row.status !== "scored") return -1;
    if (this.threshold !== null) return Math.abs(this.chance(row) - this.threshold);
    const sorted = this.model.classes.map((name) => row[`probability_${name}`]).sort((a, b) => b - a);
    return sorted[0] - (sorted[1] ?? 0);
  }

  /** Entries of one standing. */
  of(standing) {
    return this.entries.filter((entry) => entry.standing === standing);
  }

  /** Numbers by what the filter offers: all, each class (answered cells), refused, failed, seen. */
  counts() {
    const counts = { all: this.entries.length, refused: 0, failed: 0, answered: 0, seen: 0, decisions: {} };
    for (const name of this.model.classes) counts.decisions[name] = 0;
    for (const { row, standing } of this.entries) {
      counts[standing] += 1;
      if (standing === ANSWERED) counts.decisions[this.decide(row)] += 1;
      if (row.seen_in) counts.seen += 1;
    }
    return counts;
  }

  /** Entries that pass a filter ("all", "refused", "failed", "seen" or "class:<name>"), sorted. */
  view(filter, sort) {
    return this.entries.filter((entry) => this.passes(entry, filter)).sort(this.order(sort));
  }

  passes(entry, filter) {
    if (filter === "all") return true;
    if (filter === "seen") return Boolean(entry.row.seen_in);
    if (filter === REFUSED || filter === FAILED) return entry.standing === filter;
    return entry.standing === ANSWERED && `class:${this.decide(entry.row)}` === filter;
  }

  order(sort) {
    const given = (a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1];
    const rules = {
      given,
      name: (a, b) => NAMES.compare(a.row.input, b.row.input),
      certain: (a, b) => this.certainty(b.row) - this.certainty(a.row),
      uncertain: (a, b) => this.certainty(a.row) - this.certainty(b.row),
      probable: (a, b) => this.leading(b.row) - this.leading(a.row),
      improbable: (a, b) => this.leading(a.row) - this.leading(b.row),
    };
    return (a, b) => rules[sort](a, b) || given(a, b);
  }

  leading(row) {
    return this.chance(row) ?? this.confidence(row) ?? -1;
  }
}

const NAMES = new Intl.Collator("en", { numeric: true });
