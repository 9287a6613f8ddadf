// The page: its state is in the address bar, its data come from the server of the page.

import { ask } from "./api.js";
import { combobox } from "./combobox.js";
import { byId, chips, count, el, later, plural, titleOf, traits } from "./dom.js";
import { List, problem } from "./list.js";
import { blank, named, read, write } from "./state.js";
import { drawSliders } from "./weights.js";

const PAGE = 10; // items per page
const DEPTH = 50; // ranks under the fitted weights that are loaded for comparison
const FITTED = "as fitted"; // second list: the first one under its fitted weights
const STILL = "Move a slider, and the list follows.";
const FOUND = 8; // entries of a search
const TITLES = "relrank titles"; // of the history's items, kept for a reload

let state = blank();
let runs = [];
let lists = []; // shown lists: {list, name, weights, items, total, next, error}
let before = null; // ranks under the fitted weights, if weights were changed
let pending = null; // aborts the requests in progress
let solving = null; // the one request in progress with other weights
let subject = ""; // user or history that the shown reasons belong to
const titles = new Map(JSON.parse(sessionStorage.getItem(TITLES) ?? "[]"));

const runOf = (name) => runs.find((run) => run.name === name);
const run = () => runOf(state.run);
const moved = () => Object.keys(state.weights).length > 0;
const nounOf = (name) => runOf(name)?.item ?? "item";
const tell = (text) => (byId("status").textContent = text);

/** Write the state to the address bar; with `push`, Back returns to the previous state. */
function keep(push = true) {
  const hash = write(state);
  if (hash !== location.hash) history[push ? "pushState" : "replaceState"](null, "", hash);
}

function remember(item) {
  if (item.title === null || item.title === undefined) return;
  titles.set(String(item.item), item.title);
  sessionStorage.setItem(TITLES, JSON.stringify([...titles].slice(-500)));
}

const exampleOf = (name) => runOf(name)?.example?.items ?? [];
const isExample = () => state.mode === "history" && state.history.length > 0 && String(state.history) === String(exampleOf(state.run).map((one) => one.item));

/** Take the history of the example into the state. */
function takeExample() {
  exampleOf(state.run).forEach(remember);
  Object.assign(state, { mode: "history", user: null, history: exampleOf(state.run).map((one) => String(one.item)) });
}

function showExample() {
  takeExample();
  go();
}

/* requests */

const weighed = ({ weights }) => weights !== null && Object.keys(weights).length > 0;

/**
 * The response for the current user or history, from one list's model.
 *
 * With other weights the server solves the model, and does not stop if the request is cancelled. Such requests are
 * sent one after another, and those cancelled while they wait are never sent.
 */
async function request(path, list, fields, signal = null) {
  const body = { run: list.name, ...(state.mode === "user" ? { user: state.user } : { history: state.history }), ...fields };
  if (!weighed(list)) return ask(path, { body, signal });
  body.weights = list.weights;
  while (solving) {
    await solving;
    signal?.throwIfAborted();
  }
  const answer = ask(path, { body });
  const mine = (solving = answer.catch(() => null).finally(() => (solving = solving === mine ? null : solving)));
  return answer;
}

const recommend = (list, k, offset, signal) => request("recommend", list, { k, offset, exclude_seen: state.exclude, with: state.with }, signal);
const explain = (list, item) => request("explain", list, { item: item.item });

const later400 = later(400, () => refresh());

/** Load everything that is shown, and show it. */
async function refresh() {
  later400.off();
  pending?.abort();
  const mine = (pending = new AbortController());
  arrange();
  if (!named(state)) return empty();
  const results = byId("results");
  results.classList.add("busy");
  if (moved()) byId("moved").textContent = "Computing the list under these weights…", tell(byId("moved").textContent);
  for (const one of lists) one.list.busy(true);
  const shown = Math.max(PAGE, lists[0].items.length);
  const bare = { name: state.run, weights: null };
  const places = moved() ? recommend(bare, Math.max(shown, DEPTH), 0, mine.signal).then(placesOf) : null;
  const answers = await Promise.allSettled([...lists.map((one) => recommend(one, shown, 0, mine.signal)), places]);
  if (mine.signal.aborted) return;
  results.classList.remove("busy");
  const fitted = answers.pop();
  before = fitted.status === "fulfilled" ? fitted.value : null;
  lists.forEach((one, at) => {
    const { value, reason } = answers[at];
    Object.assign(one, value ? { items: value.items, total: value.total, next: value.next_offset, error: null } : { items: [], error: reason });
  });
  draw();
}

const placesOf = (answer) => new Map(answer.items.map((item) => [String(item.item), item.place]));

/** Load the next page of one list. */
async function more(one) {
  const signal = pending.signal;
  try {
    one.list.busy(true);
    const answer = await recommend(one, PAGE, one.next, signal);
    const first = answer.items[0]?.item;
    one.items = [...one.items, ...answer.items];
    one.next = answer.next_offset;
    if (moved() && one === lists[0]) {
      before = placesOf(await recommend({ name: state.run, weights: null }, Math.max(DEPTH, one.items.length), 0, signal));
    }
    draw();
    one.list.rows.get(String(first))?.root.querySelector(".why").focus({ preventScroll: true });
  } catch (error) {
    if (signal.aborted) return;
    one.list.busy(false);
    one.list.foot.replaceChildren(problem(error, () => more(one)));
  }
}

/* drawing */

/** Arrange one or two columns. Rows keep their identity, and their reasons while the user or history is the same. */
function arrange() {
  const wanted = [{ name: state.run, weights: state.weights }];
  if (state.compareWith === FITTED) wanted.push({ name: state.run, weights: null });
  else if (state.compareWith) wanted.push({ name: state.compareWith, weights: null });
  const current = JSON.stringify(state.mode === "user" ? state.user : state.history);
  if (current !== subject) {
    before = null;
    for (const one of lists) one.list.forget(), (one.items = []);
  }
  else if (lists.length && JSON.stringify(lists[0].weights) !== JSON.stringify(state.weights)) lists[0].list.forget({ closed: false });
  subject = current;
  const same = lists.length === wanted.length && lists.every((one, at) => one.name === wanted[at].name);
  if (same) return wanted.forEach((one, at) => Object.assign(lists[at], one));
  lists = wanted.map((one) => {
    const made = { ...one, items: [], total: 0, next: null, error: null };
    made.list = new List({ explain: (item) => explain(made, item), add, only, filters: runOf(one.name)?.filters ?? [] });
    return made;
  });
  byId("lists").replaceChildren(...lists.map((one) => one.list.root));
  byId("lists").className = lists.length > 1 ? "two" : "one";
  byId("scales").hidden = lists.length < 2 || state.compareWith === FITTED;
}

function draw() {
  const places = lists.map((one) => placesOf(one));
  lists.forEach((one, at) => {
    one.list.busy(false);
    head(one, at);
    if (one.error) return one.list.fail(one.error, refresh);
    if (!one.items.length) return one.list.none(state.with.length ? "Nothing is left with this filter." : "Nothing is left to recommend.");
    one.list.show(one.items, {
      total: one.total,
      noun: nounOf(one.name),
      before: at === 0 ? before : null,
      other: lists.length > 1 && !lists[1 - at].error && !(at === 0 && before && state.compareWith === FITTED) ? places[1 - at] : null,
      more: one.next === null ? null : () => more(one),
      own: state.mode === "history",
    });
  });
  const notice = byId("moved");
  const moves = before && !lists[0].error ? movesOf(lists[0].items) : "";
  notice.textContent = moves || STILL;
  tell(lists[0].error ? "" : [`${plural(lists[0].items.length, "recommendation")} shown`, moves].filter(Boolean).join(". "));
}

/** The heading: the user or history for one list, the model for each of two. */
function head({ list, name }, at) {
  const whom = state.mode === "user" ? `user ${state.user}` : "this history";
  const noun = nounOf(name);
  list.title.data = lists.length > 1 ? name : named(state) ? `${noun[0].toUpperCase()}${noun.slice(1)}s for ${whom}` : "Nobody yet";
  const kinds = [isExample() && lists.length === 1 && "an example", at === 0 && moved() && "weights moved", at === 1 && state.compareWith === FITTED && "as fitted"];
  list.kind.textContent = kinds.filter(Boolean).join(", ");
}

function movesOf(items) {
  const by = items.map((item) => (before.get(String(item.item)) ?? Infinity) - item.place);
  const [up, down] = [by.filter((n) => n > 0).length, by.filter((n) => n < 0).length];
  return up || down ? `Against the fitted weights: ${up} up, ${down} down, ${by.length - up - down} in place.` : "The same order as with the fitted weights.";
}

/** Without a user or history: show what to do. */
async function empty() {
  const [{ list, name }] = lists;
  for (const one of lists) one.list.clear(), (one.items = []);
  byId("results").classList.remove("busy");
  byId("moved").textContent = STILL;
  lists.forEach((one, at) => (one.list.busy(false), head(one, at)));
  tell("");
  if (state.mode === "history") {
    list.none(`Search for a ${nounOf(name)} or two that somebody chose. Recommendations appear here.`);
    if (exampleOf(name).length) list.foot.append(el("button", { type: "button", class: "quiet", onclick: showExample }, "Show an example"));
    return;
  }
  list.none("Name a user. Recommendations appear here.");
  const { users } = await ask("users", { query: { q: "", limit: 3, run: name } }).catch(() => ({ users: [] }));
  if (named(state) || state.mode !== "user" || !users.length) return;
  const tries = users.map((user) => el("button", { type: "button", class: "quiet", onclick: () => chooseUser(user) }, String(user)));
  list.foot.append(el("p", { class: "tries" }, "For instance ", tries));
}

/** Set the controls from the state. */
function controls() {
  const { relations, filters, weights_adjustable: adjustable, weight_unit: unit, weight_meaning: meaning, ...about } = run();
  const facts = [about.model, about.arm, about.protocol, plural(about.n_users, about.user), plural(about.n_items, about.item)];
  byId("run").value = state.run;
  byId("about").textContent = facts.filter(Boolean).join(" · ");
  for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === state.mode;
  byId("by-history").hidden = state.mode !== "history";
  byId("by-user").hidden = state.mode !== "user";
  byId("user").value = state.user ?? "";
  byId("exclude").checked = state.exclude;
  historyChips();
  byId("filter").hidden = !filters.length && !state.with.length;
  byId("relation").replaceChildren(...filters.map((name) => el("option", { value: name }, name)));
  filterChips();
  const others = [["", "none"], ...(adjustable ? [[FITTED, `${state.run}, as fitted`]] : []), ...runs.filter((one) => one.name !== state.run).map((one) => [one.name, one.name])];
  byId("compare").hidden = others.length < 2;
  byId("compare-with").replaceChildren(...others.map(([value, text]) => el("option", { value }, text)));
  byId("compare-with").value = state.compareWith;
  byId("weights").hidden = !adjustable;
  if (adjustable) drawSliders(byId("sliders"), relations, state.weights, unit, weigh);
  byId("unit").textContent = adjustable ? `× 1 is the fitted weight, × 2 twice that; the unit is ${unit}. ${meaning}` : "";
  byId("reset").disabled = !moved();
}

const historyChips = () => {
  chips(byId("history"), state.history.map((item) => titles.get(item) ?? item), dropItem, byId("title"));
  byId("clear").hidden = state.mode !== "history" || state.history.length < 2;
  byId("clear").textContent = isExample() ? "Clear the example" : "Remove all";
  byId("example").hidden = !isExample();
  byId("example").textContent = `An example: ${plural(state.history.length, nounOf(state.run))} that one ${run().user} chose.`;
};
const filterChips = () => chips(byId("with"), state.with.map((one) => `${one.relation}: ${one.value}`), dropFilter, byId("value"));

/** Load the titles of a history from the address bar by their ids. */
async function nameHistory() {
  const unnamed = state.history.filter((item) => !titles.has(item));
  await Promise.all(
    unnamed.map(async (id) => {
      const { items } = await ask("items", { query: { q: id, limit: 10, run: state.run } });
      items.filter((item) => String(item.item) === id).forEach(remember);
    }),
  ).catch(() => null);
  if (unnamed.some((id) => titles.has(id))) historyChips();
}

/* event handlers */

function add(item) {
  remember(item);
  const id = String(item.item);
  byId("title").value = "";
  if (!state.history.includes(id)) state.history = [...state.history, id];
  historyChips();
  keep();
  tell(`${titleOf(item)} added`);
  refresh();
}

function dropItem(place) {
  state.history = state.history.filter((_, at) => at !== place);
  historyChips();
  keep();
  refresh();
}

function only(relation, value) {
  if (!state.with.some((one) => one.relation === relation && one.value === value)) state.with = [...state.with, { relation, value }];
  filterChips();
  byId("filter").open = true;
  keep();
  refresh();
}

function dropFilter(place) {
  state.with = state.with.filter((_, at) => at !== place);
  filterChips();
  keep();
  refresh();
}

function weigh(relation, weight) {
  const { [relation]: _, ...others } = state.weights;
  const fitted = run().relations.find((one) => one.name === relation).weight;
  state.weights = weight === fitted ? others : { ...others, [relation]: weight };
  byId("reset").disabled = !moved();
  keep(false);
  later400();
}

function chooseUser(user) {
  state.user = String(user);
  byId("user").value = state.user;
  keep();
  refresh();
  showChosen();
}

/** Show the interactions of a known user. */
async function showChosen() {
  const box = byId("chose");
  box.hidden = true;
  if (state.mode !== "user" || state.user === null) return;
  const user = state.user;
  try {
    const { items } = await ask(`history/${encodeURIComponent(user)}`, { query: { run: state.run } });
    if (user !== state.user) return;
    items.forEach(remember);
    box.querySelector("summary").textContent = `What they chose (${count(items.length)})`;
    box.querySelector("ul").replaceChildren(
      ...items.map((item) => el("li", {}, el("span", {}, titleOf(item)), traits(item), item.part !== "train" && el("span", { class: "tag" }, item.part))),
    );
    box.querySelector("button").onclick = () => {
      Object.assign(state, { mode: "history", history: [...new Set(items.map((item) => String(item.item)))] });
      go();
    };
    box.hidden = !items.length;
  } catch {
    /* the list shows what is wrong with this user */
  }
}

/** Apply the state. */
function go({ push = true } = {}) {
  controls();
  keep(push);
  refresh();
  nameHistory();
  showChosen();
}

function follow() {
  const wanted = read(location.hash);
  state = { ...wanted, run: runOf(wanted.run) ? wanted.run : runs[0].name };
  if (!location.hash) takeExample();
  if (state.compareWith !== FITTED && !runOf(state.compareWith)) state.compareWith = "";
  if (!run().weights_adjustable) state.weights = {};
  go({ push: false });
}

function wire() {
  combobox(byId("title"), {
    find: async (q, signal) => {
      const { items } = await ask("items", { query: { q, limit: Math.min(FOUND + state.history.length, 1000), run: state.run }, signal });
      return items.filter((item) => !state.history.includes(String(item.item))).slice(0, FOUND);
    },
    show: titleOf,
    more: traits,
    pick: add,
    back: () => byId("history").querySelector("li:last-child button")?.focus(),
    tell,
  });
  combobox(byId("user"), {
    find: async (q, signal) => (await ask("users", { query: { q, limit: FOUND, run: state.run }, signal })).users,
    show: String,
    pick: chooseUser,
    plain: chooseUser,
    tell,
  });
  const filter = (value) => ((byId("value").value = ""), only(byId("relation").value, value));
  combobox(byId("value"), {
    find: async (q, signal) => (await ask(`values/${encodeURIComponent(byId("relation").value)}`, { query: { q, limit: FOUND, run: state.run }, signal })).values,
    show: (one) => `${one.value} (${count(one.items)})`,
    pick: (one) => filter(String(one.value)),
    plain: filter,
    tell,
  });
  byId("run").addEventListener("change", (event) => {
    const follows = isExample();
    Object.assign(state, { run: event.target.value, weights: {}, compareWith: state.compareWith === event.target.value ? "" : state.compareWith });
    if (follows && exampleOf(state.run).length) takeExample();
    if (state.compareWith === FITTED && !run().weights_adjustable) state.compareWith = "";
    go();
  });
  for (const radio of document.getElementsByName("mode")) {
    radio.addEventListener("change", () => {
      state.mode = radio.value;
      go();
    });
  }
  byId("clear").addEventListener("click", () => {
    state.history = [];
    historyChips();
    keep();
    refresh();
    byId("title").focus();
  });
  byId("exclude").addEventListener("change", (event) => {
    state.exclude = event.target.checked;
    keep();
    refresh();
  });
  byId("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = byId("value").value.trim();
    if (!value) return byId("value").focus();
    filter(value);
  });
  byId("compare-with").addEventListener("change", (event) => {
    state.compareWith = event.target.value;
    keep();
    refresh();
  });
  byId("reset").addEventListener("click", () => {
    state.weights = {};
    drawSliders(byId("sliders"), run().relations, state.weights, run().weight_unit, weigh);
    byId("reset").disabled = true;
    keep(false);
    refresh();
  });
  addEventListener("popstate", follow);
}

async function start() {
  try {
    runs = (await ask("runs")).runs;
  } catch (error) {
    byId("lists").replaceChildren(problem(error, start));
    return;
  }
  byId("run").replaceChildren(...runs.map((one) => el("option", { value: one.name }, one.name)));
  byId("run").disabled = runs.length < 2;
  if (matchMedia("(max-width: 860px)").matches) {
    for (const panel of document.querySelectorAll("details.panel")) panel.open = false;
  }
  wire();
  follow();
  document.body.classList.add("ready");
}

start();
