/* The second page: the report of the results that the server was started with.
 *
 * In: /v1/models, /report/document. Out: the report in a frame, which has rules of its own: no script runs in it.
 */

import { askForToken } from "./access.js";
import { readModels, token } from "./api.js";
import { byId, problem } from "./elements.js";

const NO_RESULTS = {
  message: "This server shows no report.",
  expected: "a results folder with report.html",
  remedy: "start it with `leukolens serve MODEL --results FOLDER`",
};

async function show() {
  try {
    const { results } = await readModels();
    if (results) return open();
    return byId("trouble").replaceChildren(problem(NO_RESULTS));
  } catch (error) {
    if (error.status === 401 && (await askForToken())) return show();
    return byId("trouble").replaceChildren(problem(error.error ?? { message: error.message }));
  }
}

function open() {
  const frame = byId("document");
  frame.hidden = false;
  if (!token()) {
    frame.src = "/report/document";
    return;
  }
  // A frame sends no header, and a token belongs in no address: it goes as a field of a form.
  byId("ask").elements.token.value = token();
  byId("ask").submit();
}

show();
