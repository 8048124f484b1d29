/* Elements of the page, made from text that is never read as markup.
 *
 * In: names, attributes, children. Out: elements. Names of files come from strangers: every string becomes a text node.
 */

/** Make an element: strings are set as attributes, listeners and flags as properties; children are nodes or text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "string") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The element of index.html or report.html with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set text only where it differs: a live region speaks, and a card is laid out again, at every change. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A message with what was expected, what was received and what to do, as the server gives them. */
export function problem({ message, expected, received, remedy, request_id: request }) {
  const details = [
    ["expected", expected],
    ["received", received],
    ["what to do", remedy],
    ["request", request],
  ].filter(([, text]) => text);
  return element(
    "div",
    { class: "problem" },
    element("p", {}, element("strong", {}, message)),
    element("dl", { class: "pairs" }, ...details.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)])),
  );
}
