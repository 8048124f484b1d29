/* What the page asks of the server, and the token that it sends where one is needed.
 *
 * In: files and numbers. Out: answers of the server, or ServerError. The token stays in this tab (sessionStorage).
 */

const TOKEN_KEY = "leukolens-token";

/** The server refused or could not be reached. status: HTTP status, 0 without an answer; after: seconds to wait, or null. */
export class ServerError extends Error {
  constructor(status, error, after = null) {
    super(error.message);
    this.status = status;
    this.error = error;
    this.after = after;
  }
}

/** The token given in this tab; "" where there is none. */
export function token() {
  return sessionStorage.getItem(TOKEN_KEY) ?? "";
}

/** Keep a token for this tab, or forget it with "". */
export function keepToken(given) {
  if (given) sessionStorage.setItem(TOKEN_KEY, given);
  else sessionStorage.removeItem(TOKEN_KEY);
}

/** Models, limits and notice of the server. */
export async function readModels() {
  return (await ask("/v1/models")).json();
}

/** Rows for a batch of files as they become ready: yields {model}, {row} and {counts} as the server's lines come. */
export async function* predict(files, model, signal) {
  const body = new FormData();
  for (const { file, name } of files) body.append("files", file, name);
  const headers = { Accept: "application/x-ndjson" };
  const response = await ask(`/v1/predict?model=${encodeURIComponent(model)}`, { method: "POST", body, headers, signal });
  for await (const line of lines(response.body)) {
    const said = JSON.parse(line);
    if (said.error) throw new ServerError(response.status, said.error);
    yield said;
  }
}

/** The map of one picture: {overlay, class, cell_share, inside_share, peak_inside, …}. */
export async function explain(file, name, model, method, signal) {
  const body = new FormData();
  body.append("file", file, name);
  const headers = { Accept: "application/json" };
  const query = `model=${encodeURIComponent(model)}&method=${method}`;
  return (await ask(`/v1/explain?${query}`, { method: "POST", body, headers, signal })).json();
}

/** The share of positive cells among those of one patient. */
export async function summarise(asked, model, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify(asked);
  return (await ask(`/v1/summary?model=${encodeURIComponent(model)}`, { method: "POST", body, headers, signal })).json();
}

async function ask(path, { headers = {}, ...rest } = {}) {
  const own = token() ? { Authorization: `Bearer ${token()}` } : {};
  let response;
  try {
    response = await fetch(path, { ...rest, headers: { ...headers, ...own }, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, { message: "The server does not answer.", remedy: "see whether it still runs, then try again" });
  }
  if (!response.ok) throw await refused(response);
  return response;
}

async function refused(response) {
  const after = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const unknown = { message: `The server answers ${response.status} ${response.statusText}.` };
  const said = await response.json().catch(() => ({}));
  return new ServerError(response.status, said.error?.message ? said.error : unknown, Number.isNaN(after) ? null : after);
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const pieces = (rest + read.value).split("\n");
      rest = pieces.pop();
      yield* pieces.filter((piece) => piece.trim());
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
    throw new ServerError(0, { message: "The connection broke while results came in.", remedy: "try again" });
  } finally {
    reader.releaseLock();
  }
  if (rest.trim()) yield rest;
}
