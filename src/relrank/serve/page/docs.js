// The API: every operation of openapi.json with its parameters, a form that sends it, the answer, and a curl line.

import { ask, hasToken, reply } from "./api.js";
import { byId, count, el, plural } from "./dom.js";
import { problem } from "./list.js";
import { fieldsOf, typeOf } from "./schema.js";

let description = null;

/** One operation, folded; its parts are made when it is opened. */
function operation(path, method, of) {
  const [first, ...rest] = (of.description ?? "").split(/(?<=\.)\s+/);
  const id = `${method}${path.replace(/[^a-z]+/gi, "-").replace(/-$/, "")}`;
  const box = el(
    "details",
    { class: "operation", id },
    el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), " ", el("code", {}, path), " ", el("span", { class: "gist" }, first)),
  );
  box.addEventListener("toggle", () => box.open && box.children.length === 1 && box.append(...partsOf(path, method, of, id, rest.join(" "))));
  return box;
}

function partsOf(path, method, of, id, more) {
  const content = of.requestBody?.content["application/json"];
  const inputs = (of.parameters ?? []).map((one) => parameter(one, `${id}-${one.name}`));
  const body = content && bodyField(content, `${id}-body`);
  const curl = el("pre", { tabindex: "0", "aria-label": "The same with curl" });
  const answer = el("div", { class: "answer", role: "status" });
  const now = () => requestOf(path, method, inputs, body);
  const show = () => (curl.textContent = curlOf(now()));
  const send = async (event) => {
    event.preventDefault();
    answer.replaceChildren(el("p", { class: "note" }, "Waiting for the answer…"));
    answer.replaceChildren(...(await answerTo(now())));
    show();
  };
  const form = el(
    "form",
    { autocomplete: "off", oninput: show, onsubmit: send },
    inputs.map((one) => one.root),
    body?.root,
    el("div", { class: "buttons" }, el("button", {}, "Send"), el("button", { type: "button", class: "quiet", onclick: () => copy(curl) }, "Copy curl")),
  );
  body?.choose(show);
  show();
  return [
    more && el("p", {}, more),
    form,
    curl,
    answer,
    content && fields("Fields of the body", content.schema),
    fields("Fields of the answer", of.responses["200"]?.content?.["application/json"]?.schema),
  ].filter(Boolean);
}

/** A field for a parameter; `value()` is a list of texts, empty without input. */
function parameter({ name, in: place, required, schema, description: text }, id) {
  const isList = schema.type === "array";
  const traits = { id, "aria-describedby": `${id}-of`, spellcheck: "false", required: Boolean(required) };
  const standard = schema.default === undefined || isList ? "" : String(schema.default);
  let field;
  if (schema.type === "boolean") field = el("select", traits, [String(schema.default), String(!schema.default)].map((value) => el("option", { value }, value)));
  else if (isList) field = el("textarea", { ...traits, rows: 1, placeholder: "one per line" });
  else field = el("input", { ...traits, type: "text", inputmode: schema.type === "integer" ? "numeric" : null, value: place === "path" ? (schema.examples?.[0] ?? "") : null, placeholder: standard });
  const note = [place === "path" ? "in the path" : null, typeOf(schema), text].filter(Boolean).join(" · ");
  return {
    name,
    place,
    root: el("div", { class: "field" }, el("label", { for: id }, el("code", {}, name)), field, el("p", { class: "note", id: `${id}-of` }, note)),
    value: () => {
      const given = isList ? field.value.split("\n").map((line) => line.trim()).filter(Boolean) : [field.value];
      return given.filter((one) => one !== "" && (place === "path" || one !== standard));
    },
  };
}

/** A field for the JSON of a body, with a choice of examples. */
function bodyField({ examples = {} }, id) {
  const text = el("textarea", { id, class: "json", rows: 8, spellcheck: "false" });
  const named = Object.values(examples);
  const fill = (at) => (text.value = indented(named[at]?.value ?? {}));
  const select = el("select", { "aria-label": "Example" }, named.map(({ summary }, at) => el("option", { value: at }, summary)));
  fill(0);
  return {
    root: el("div", { class: "field body" }, el("label", { for: id }, "Body, as JSON"), named.length > 1 && select, text),
    value: () => text.value,
    choose: (then) => select.addEventListener("change", () => (fill(Number(select.value)), then())),
  };
}

/** The request as it stands in the form. */
function requestOf(path, method, inputs, body) {
  const filled = inputs.filter((one) => one.place === "path").reduce((so, one) => so.replace(`{${one.name}}`, encodeURIComponent(one.value()[0] ?? "")), path);
  const address = new URL(filled.slice(1), document.baseURI);
  for (const one of inputs) if (one.place === "query") for (const value of one.value()) address.searchParams.append(one.name, value);
  return { address, method: method.toUpperCase(), body: body ? body.value() : null };
}

/** The elements of an answer: status, time and size, then the content. */
async function answerTo({ address, method, body }) {
  const started = performance.now();
  try {
    const answer = await reply(address, { method, body });
    const text = await answer.text();
    const taken = `${Math.round(performance.now() - started)} ms · ${plural(new TextEncoder().encode(text).length, "byte")}`;
    const status = el("span", { class: answer.ok ? "chip ok" : "chip down" }, `${answer.status} ${answer.statusText}`.trim());
    return [el("p", { class: "note" }, status, ` ${taken}`), el("pre", { tabindex: "0", "aria-label": "Answer" }, pretty(text))];
  } catch (error) {
    return [problem(error)];
  }
}

/** JSON with indents, short lists of plain values in one line; other texts as they are. */
function pretty(text) {
  try {
    return indented(JSON.parse(text));
  } catch {
    return text;
  }
}

// No text within JSON has a line break, so these are lists.
const indented = (content) => JSON.stringify(content, null, 2).replace(/\[\n\s+([^[\]{}]{1,80}?)\n\s+\]/g, (_, inside) => `[${inside.replace(/,\n\s+/g, ", ")}]`);
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curlOf({ address, method, body }) {
  const parts = [`curl ${method === "GET" ? "" : `-X ${method} `}${quoted(address.href)}`];
  if (hasToken()) parts.push('-H "Authorization: Bearer $TOKEN"');
  if (body !== null) parts.push("-H 'Content-Type: application/json'", `-d ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

/** Copy a text, or select it where the browser does not allow that. */
async function copy(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    getSelection().selectAllChildren(node);
  }
}

function fields(title, schema) {
  if (!schema) return null;
  const rows = fieldsOf(schema, description.components.schemas).map(({ name, type, text }) => el("tr", {}, el("td", {}, el("code", {}, name)), el("td", {}, type), el("td", {}, text)));
  const head = el("tr", {}, ["Field", "Type", "Meaning"].map((name) => el("th", { scope: "col" }, name)));
  return el("details", { class: "fields" }, el("summary", {}, title), el("div", { class: "scroll", tabindex: "0" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows))));
}

/** Open the operation that the address names. */
function follow() {
  const box = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (box) box.open = true;
}

async function start() {
  try {
    description = await ask("openapi.json");
  } catch (error) {
    byId("operations").replaceChildren(problem(error, start));
    return;
  }
  const { info, paths } = description;
  byId("about").textContent = info.description;
  const all = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, of]) => operation(path, method, of)));
  byId("operations").replaceChildren(el("p", { class: "note" }, `relrank ${info.version}, ${count(all.length)} operations. Open one, change what it asks, and send it to this server.`), ...all);
  addEventListener("hashchange", follow);
  follow();
  document.body.classList.add("ready");
}

start();
