// Requests to the server of this page. Errors keep their four fields; a 401 opens one dialog for the token.

import { byId } from "./dom.js";

const KEY = "relrank token";

/** An error of the server or the network: `message`, `where`, `expected`, `found`, `status`. */
export class RequestFailed extends Error {
  constructor(status, { message, where, expected, found }) {
    super(message);
    Object.assign(this, { status, where, expected, found });
  }
}

/** The response to GET `path?query`, or to POST if there is a body. Throws RequestFailed, or AbortError if it was cancelled. */
export async function ask(path, { query = {}, body = null, signal = null } = {}) {
  const address = new URL(path, document.baseURI);
  for (const [key, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined) address.searchParams.append(key, one);
  }
  return read(await reply(address, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), signal }));
}

/** The Response to a request with this text as its body; a 401 asks for the token. Throws as `ask`. */
export async function reply(address, { method, body, signal = null }) {
  for (let tries = 0; ; tries += 1) {
    const token = sessionStorage.getItem(KEY);
    const answer = await send(address, method, body, token, signal);
    if (answer.status !== 401 || tries >= 5 || !(await newToken(token))) return answer;
  }
}

/** Whether requests have a token. */
export const hasToken = () => sessionStorage.getItem(KEY) !== null;

async function send(address, method, body, token, signal) {
  const headers = { accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== null) headers["content-type"] = "application/json";
  try {
    return await fetch(address, { method, headers, signal, body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestFailed(0, { message: "no answer from the server", where: address.origin, expected: "one that runs" });
  }
}

async function read(answer) {
  let content = null;
  try {
    content = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (answer.ok && content !== null) return content;
  throw new RequestFailed(answer.status, content?.error ?? { message: `the server answered ${answer.status}`, where: answer.url });
}

let dialogResult = null;

/** Whether there is now a token other than `refused`. Concurrent requests share one dialog. */
function newToken(refused) {
  const current = sessionStorage.getItem(KEY);
  if (current !== null && current !== refused) return true;
  dialogResult ??= new Promise((resolve) => {
    const dialog = byId("token");
    const field = byId("bearer");
    field.value = "";
    byId("token-note").textContent = refused
      ? "The last one was not accepted. It is kept until this tab is closed."
      : "It is kept until this tab is closed.";
    dialog.returnValue = "";
    const close = () => {
      const given = dialog.returnValue === "ok" && field.value.trim();
      if (given) sessionStorage.setItem(KEY, given);
      dialogResult = null;
      resolve(Boolean(given));
    };
    dialog.addEventListener("close", close, { once: true });
    dialog.showModal();
    field.focus();
  });
  return dialogResult;
}
