// Questions to the server that this page came from. Errors keep their four fields; a 401 asks for a token once.

import { byId } from "./dom.js";

const KEY = "relrank token";

/** What the server (or the way there) objects to: `message`, `where`, `expected`, `found`, `status`. */
export class Refused extends Error {
  constructor(status, { message, where, expected, found }) {
    super(message);
    Object.assign(this, { status, where, expected, found });
  }
}

/** The answer to GET `path?query`, or to POST where there is a body. Throws Refused; AbortError where it was called off. */
export async function ask(path, { query = {}, body = null, signal = null } = {}) {
  const address = new URL(path, document.baseURI);
  for (const [key, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined) address.searchParams.append(key, one);
  }
  for (let tries = 0; ; tries += 1) {
    const token = sessionStorage.getItem(KEY);
    const answer = await send(address, body, token, signal);
    if (answer.status === 401 && tries < 5 && (await newToken(token))) continue;
    return read(answer);
  }
}

async function send(address, body, token, signal) {
  const headers = { accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  try {
    return await fetch(address, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "no answer from the server", where: address.origin, expected: "one that runs" });
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
  throw new Refused(answer.status, content?.error ?? { message: `the server answered ${answer.status}`, where: answer.url });
}

let asking = null;

/** Whether there is a token now that is not `refused`. Questions that wait at the same time share one dialog. */
function newToken(refused) {
  const held = sessionStorage.getItem(KEY);
  if (held !== null && held !== refused) return true;
  asking ??= new Promise((answered) => {
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
      asking = null;
      answered(Boolean(given));
    };
    dialog.addEventListener("close", close, { once: true });
    dialog.showModal();
    field.focus();
  });
  return asking;
}
