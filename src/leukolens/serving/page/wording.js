/* Words for numbers, refusals and failures.
 *
 * In: values of a row of /v1/predict. Out: text.
 */

const NARROW_SPACE = "\u202f";

// Words for chances: Mastrandrea et al. 2010, "Guidance note for lead authors of the IPCC fifth assessment report on consistent
// treatment of uncertainties", table 1. The two outermost classes there are left out: validation sets are too small for them.
const CHANCES = [
  [0.9, "very likely "],
  [0.66, "likely "],
  [0.33, "as likely as not "],
  [0.1, "unlikely "],
  [0, "very unlikely "],
];

const FAILURES = {
  missing: "there is no such file",
  no_permission: "it may not be read",
  empty: "it has no bytes",
  not_an_image: "it is no image (BMP, PNG, JPEG, TIFF or WebP)",
  too_large: "it is larger than allowed",
  unsupported: "an image of a kind that is not read: not 8 bits per channel, or several pictures in one",
  truncated: "it ends too early or is damaged",
  blank: "it is black in every pixel",
  damaged_archive: "the archive is damaged, or is none",
  unsafe_name: "its name leads out of the archive",
  link: "it is a link, a device or a pipe",
  duplicate_name: "several members of the archive have this name",
  nested_archive: "it is an archive within an archive: unpack it",
  encrypted: "it needs a password",
};

const UNLIKE = "Unlike the images that the model has learned from: what it says of this one means nothing.";

const SIDES = { train: "in training", validation: "in validation" };

/** A share of 0–1 in percent; one that is not quite 0 or 1 is not written as if it were. */
export function percent(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const least = 10 ** -digits;
  const written = 100 * value;
  if (written > 0 && written < least / 2) return `<${least}${NARROW_SPACE}%`;
  if (written < 100 && written > 100 - least / 2) return `>${(100 - least).toFixed(digits)}${NARROW_SPACE}%`;
  return `${written.toFixed(digits)}${NARROW_SPACE}%`;
}

/** Both ends of an interval of shares: "61.2 % to 70.0 %". */
export function interval(ends) {
  return ends ? `${percent(ends[0])} to ${percent(ends[1])}` : "–";
}

/** A number with thousands set apart. */
export function count(value) {
  return value.toLocaleString("en-US");
}

/** "1 cell", "2 cells". */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** What a probability of 0–1 of a class means: "very likely ALL". */
export function meaning(probability, name) {
  const [, words] = CHANCES.find(([least]) => probability >= least);
  return words + name;
}

/** What a probability says of a hundred cells. */
export function ofHundred(probability, name) {
  const share = Math.round(100 * probability);
  return `Of 100 cells with this probability about ${share} are ${name}, if they come as those of validation did.`;
}

/** Why the model does not answer, as a sentence. */
export function refusalWords(refusal) {
  if (refusal.startsWith("unlike")) return UNLIKE;
  if (refusal.startsWith("uncertain: no class")) return "Uncertain: no class fits well enough.";
  if (refusal.startsWith("uncertain: ")) return `Uncertain: ${refusal.slice("uncertain: ".length)}, none can be ruled out.`;
  return refusal;
}

/** Begin with a capital. */
export function sentence(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

/** Why there is no score, in words; the reason itself where it is not known here. */
export function failureWords(reason) {
  return FAILURES[reason] ?? reason;
}

/** Where the model has seen a cell before. */
export function seenWords(side) {
  return `seen ${SIDES[side] ?? `in ${side}`}`;
}

/** Names joined as a sentence does: "A, B or C". */
export function either(names, word = "or") {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} ${word} ${names.at(-1)}`;
}

/** A name in which every character can be seen: what cannot be printed is written \n, \x1b, \u202e. */
export function visible(name) {
  return name.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, escaped);
}

/** One character as Python's unicode_escape writes it. */
export function escaped(character) {
  const code = character.codePointAt(0);
  const short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
  if (short) return short;
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}
