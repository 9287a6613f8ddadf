// A list of recommendations whose rows keep their identity while they move; each row has its reasons.

import { count, el, number, plural, titleOf, traits } from "./dom.js";

const NODES = 12; // maximum number of named nodes of a reason
let serial = 0; // number of rows so far, for ids
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** A list with a heading, `title` and `kind`. `explain(item)` returns a promise of reasons; `add(item)` and `only(relation, value)` are called by buttons of the rows. */
export class List {
  constructor({ explain, add, only, filters }) {
    Object.assign(this, { explain, add, only, filters });
    this.rows = new Map();
    this.title = document.createTextNode("");
    this.kind = el("span", { class: "kind" });
    this.note = el("p", { class: "note" });
    this.body = el("ol", { class: "list" });
    this.foot = el("div", { class: "foot" });
    this.root = el("section", { class: "column" }, el("h2", {}, this.title, " ", this.kind), this.note, this.body, this.foot);
  }

  /** Drop the reasons, which belong to another user or other weights; open rows load theirs again unless `closed`. */
  forget({ closed = true } = {}) {
    for (const row of this.rows.values()) row.forget(closed);
  }

  clear() {
    this.rows.clear();
    this.body.replaceChildren();
    this.foot.replaceChildren();
    this.note.textContent = "";
  }

  busy(on) {
    this.root.setAttribute("aria-busy", String(on));
    if (on && !this.rows.size) {
      const bones = Array.from({ length: 5 }, () => el("li", { class: "row bone", "aria-hidden": "true" }));
      this.body.replaceChildren(...bones);
      this.foot.replaceChildren();
    }
  }

  /**
   * Show items in their order.
   *
   * `before`: ranks by item under the fitted weights, or null; `other`: ranks by item in the other list, or null;
   * `more`: loads the next page, or null at the end; `own`: whether rows can be added to the history.
   */
  show(items, { total, noun, before, other, more, own }) {
    const tops = new Map([...this.rows].map(([key, row]) => [key, row.root.getBoundingClientRect().top]));
    const scores = items.map((item) => item.score);
    const [low, high] = [Math.min(0, ...scores), Math.max(...scores)];
    const rows = new Map();
    for (const item of items) {
      const key = String(item.item);
      const row = this.rows.get(key) ?? this.#row(item);
      row.update(item, { share: high > low ? (item.score - low) / (high - low) : 0, before, other, own });
      rows.set(key, row);
    }
    this.rows = rows;
    // Nodes already in position are not moved: moving one would lose the focus within it.
    const wanted = [...rows.values()].map((row) => row.root);
    for (const node of [...this.body.children]) if (!wanted.includes(node)) node.remove();
    wanted.forEach((node, at) => this.body.children[at] !== node && this.body.insertBefore(node, this.body.children[at] ?? null));
    for (const [key, row] of rows) if (tops.has(key)) glide(row.root, tops.get(key));
    if (this.focusAt !== undefined) wanted[this.focusAt]?.querySelector(".add").focus({ preventScroll: true });
    this.focusAt = undefined;
    this.note.textContent = `${count(items.length)} of ${plural(total, noun)}`;
    this.foot.replaceChildren(...(more ? [el("button", { type: "button", class: "more", onclick: more }, "More")] : []));
  }

  /** Show why there are no items. */
  none(text) {
    this.clear();
    this.foot.replaceChildren(el("p", { class: "nothing" }, text));
  }

  /** Show an error; `again` retries. */
  fail(error, again) {
    this.clear();
    this.foot.replaceChildren(problem(error, again));
  }

  #row(item) {
    const name = titleOf(item);
    const place = el("span", { class: "place" });
    const bar = el("span", { class: "fill" });
    const score = el("span", { class: "score" });
    const marks = el("span", { class: "marks" });
    const reasons = el("div", { class: "reasons", id: `reasons-${(serial += 1)}`, hidden: true });
    const why = el(
      "button",
      { type: "button", class: "why", "aria-expanded": "false", "aria-controls": reasons.id, onclick: () => open(reasons.hidden) },
      "Why",
      el("span", { class: "hidden" }, ` ${name}`),
    );
    const open = (on) => {
      reasons.hidden = !on;
      why.setAttribute("aria-expanded", String(on));
      if (on && !reasons.firstChild) this.#reasons(item, reasons);
    };
    const add = el(
      "button",
      { type: "button", class: "add", "aria-label": `Add ${name} to the history`, title: "Add to the history", onclick: () => this.#take(item, root) },
      el("span", { "aria-hidden": "true" }, "+"),
    );
    const root = el(
      "li",
      { class: "row", "data-item": item.item },
      place,
      el("p", { class: "name" }, name),
      traits(item),
      el("div", { class: "about" }, el("span", { class: "measure" }, el("span", { class: "bar", "aria-hidden": "true" }, bar), score), why, marks),
      add,
      reasons,
    );
    const update = (now, { share, before, other, own }) => {
      const key = String(now.item);
      place.textContent = count(now.place);
      score.textContent = number(now.score);
      score.title = `score ${now.score}`;
      bar.style.width = `${(100 * share).toFixed(1)}%`;
      marks.replaceChildren(...[before && moveMark(now.place, before.get(key)), other && otherMark(other.get(key))].filter(Boolean));
      root.classList.toggle("both", Boolean(other?.has(key)));
      add.hidden = !own;
      if (!reasons.hidden) open(true);
    };
    const forget = (closed) => {
      reasons.replaceChildren();
      if (closed) open(false);
    };
    return { root, update, forget };
  }

  /** Add the item of a row to the history; the row that takes its position gets the focus. */
  #take(item, root) {
    this.focusAt = [...this.body.children].indexOf(root);
    this.add(item);
  }

  async #reasons(item, into) {
    const wait = el("p", { class: "note wait", role: "status" }, "Asking the model…");
    into.replaceChildren(wait);
    try {
      const answer = await this.explain(item);
      if (!into.contains(wait)) return; // outdated
      into.replaceChildren(...reasonsOf(answer, this.filters, this.only));
    } catch (error) {
      if (into.contains(wait)) into.replaceChildren(problem(error, () => this.#reasons(item, into)));
    }
  }
}

/** How the weights changed a rank; `before` is undefined if the item was below the ranks that were loaded. */
function moveMark(place, before) {
  const up = (before ?? Infinity) - place;
  if (up === Infinity) return mark("up", "new", "▲ ", "from far down under the fitted weights");
  if (up === 0) return mark("same", "same place", "= ", "as under the fitted weights");
  const by = plural(Math.abs(up), "place");
  return up > 0 ? mark("up", `${by} up`, "▲ ", `${place + up} under the fitted weights`) : mark("down", `${by} down`, "▼ ", `${place + up} under the fitted weights`);
}

const otherMark = (place) =>
  place === undefined ? mark("only", "only here", "", "not in what is shown of the other list") : mark("both", `in both, there at ${count(place)}`, "", "in both lists");

const mark = (kind, text, sign, title) => el("span", { class: `chip ${kind}`, title }, sign && el("span", { "aria-hidden": "true" }, sign), text);

/** Animate a row from its old position. */
function glide(node, from) {
  const by = from - node.getBoundingClientRect().top;
  if (Math.abs(by) < 2) return;
  node.classList.remove("rose", "fell");
  if (still.matches) return;
  node.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 420, easing: "cubic-bezier(.2, .7, .2, 1)" });
  node.classList.add(by > 0 ? "rose" : "fell");
  node.addEventListener("animationend", () => node.classList.remove("rose", "fell"), { once: true });
}

function reasonsOf(answer, filters, only) {
  const { reasons, rank, score } = answer;
  const intro = el("p", { class: "note" }, `Place ${count(rank)} of all that they have not chosen, score ${number(score)}. “Without” takes their own choice and the links on the path away and asks the model again.`);
  if (!reasons.length) return [el("p", { class: "note" }, "The model names no path from the history to this one.")];
  const most = Math.max(...reasons.map((reason) => Math.abs(reason.strength)));
  return [intro, el("ol", { class: "paths" }, reasons.map((reason) => reasonOf(reason, { rank, score, most, filters, only })))];
}

function reasonOf(reason, { rank, score, most, filters, only }) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${(most > 0 ? (100 * Math.abs(reason.strength)) / most : 0).toFixed(1)}%`;
  const through = reason.through.slice(0, NODES).map((node) => {
    const name = node.name ?? String(node.id);
    if (!filters.includes(reason.relation)) return el("span", { class: "tag" }, name);
    const traits = { type: "button", class: "tag", title: `Only items with ${reason.relation} ${name}`, onclick: () => only(reason.relation, String(node.id)) };
    return el("button", traits, el("span", { class: "hidden" }, "Only items with "), name);
  });
  const isRanked = Number.isFinite(reason.rank_after_removal);
  return el(
    "li",
    { class: "reason" },
    el("p", { class: "sentence" }, reason.sentence),
    el(
      "p",
      { class: "path" },
      el("span", { class: "via" }, titleOf(reason.via)),
      el("span", { class: "step" }, el("span", { "aria-hidden": "true" }, "→ "), reason.relation),
      through,
      reason.through.length > NODES && el("span", { class: "step" }, `and ${count(reason.through.length - NODES)} more`),
    ),
    el(
      "dl",
      { class: "figures" },
      el("div", {}, el("dt", {}, "Strength"), el("dd", {}, el("span", { class: "bar", "aria-hidden": "true" }, fill), number(reason.strength))),
      el("div", { class: "ranks" }, el("dt", {}, "Place, with → without"), el("dd", {}, el("b", {}, count(rank)), " → ", el("b", {}, isRanked ? count(reason.rank_after_removal) : "gone"))),
      el("div", {}, el("dt", {}, "Score"), el("dd", {}, `${number(score)} → ${number(reason.score_after_removal)}`)),
      el("div", {}, el("dt", {}, "How"), el("dd", {}, el("span", { class: reason.exact ? "chip ok" : "chip" }, reason.exact ? "exact" : "by deletion"))),
      reason.rank_without_link !== null && el("div", {}, el("dt", {}, "Without the link alone"), el("dd", {}, `${count(rank)} → ${count(reason.rank_without_link)}`)),
    ),
  );
}

/** An error with its fields, and a button to retry where that may help. */
export function problem(error, again = null) {
  const facts = [
    ["Where", error.where],
    ["Expected", error.expected],
    ["Found", error.found],
  ].filter(([, text]) => text !== null && text !== undefined && text !== "");
  return el(
    "div",
    { class: "problem", role: "alert" },
    el("p", {}, el("b", {}, error.message ?? String(error))),
    el("dl", {}, facts.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(text))))),
    again && !(error.status >= 400 && error.status < 500) && el("button", { type: "button", class: "quiet", onclick: again }, "Try again"),
  );
}
