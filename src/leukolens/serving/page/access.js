/* The question for the token, where the server demands one.
 *
 * In: what the user types. Out: a token kept for this tab. It is sent as a header and stands in no address.
 */

import { keepToken, token } from "./api.js";
import { byId, say } from "./elements.js";

const DEMANDED = "The server answers only to those who have its token.";
const REFUSED = "The server does not accept this token.";

/** Ask for the token; resolves when one was given, false when the user turned away. */
export function askForToken() {
  const dialogue = byId("access");
  say(byId("access-words"), token() ? REFUSED : DEMANDED);
  if (dialogue.open) return new Promise((resolve) => dialogue.addEventListener("close", () => resolve(false), { once: true }));
  byId("access-token").value = "";
  dialogue.showModal();
  return new Promise((resolve) => {
    dialogue.addEventListener("close", () => resolve(taken(dialogue)), { once: true });
  });
}

/** Show the button that forgets the token where there is one; forgetting it loads the page anew. */
export function offerToForget() {
  byId("forget").hidden = !token();
  byId("forget").onclick = () => {
    keepToken("");
    location.reload();
  };
}

function taken(dialogue) {
  const given = byId("access-token").value.trim();
  byId("access-token").value = "";
  if (dialogue.returnValue !== "use" || !given) return false;
  keepToken(given);
  offerToForget();
  return true;
}
