// Elements from data. Text always becomes a text node, so a title cannot inject markup.

export const byId = (id) => document.getElementById(id);

/** One element: `el("p", {class: "note", onclick}, "text", child)`; null and false children are left out. */
export function el(name, traits = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(traits)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const integer = new Intl.NumberFormat("en");
const figure = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
export const count = (n) => integer.format(n);
export const number = (x) => (Number.isFinite(x) ? figure.format(x).replace("-", "−") : "–");
export const plural = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;

/** The title of an item, or its id without one. */
export const titleOf = (item) => item.title ?? String(item.item);

/** The attributes of an item in one line, or null: name and values, with the values of each joined. */
export function traits({ attributes }) {
  const entries = Object.entries(attributes ?? {});
  if (!entries.length) return null;
  const shown = entries.map(([name, values]) => el("span", { class: "trait", title: name }, el("span", { class: "key" }, `${name.replaceAll("_", " ")} `), values.map(text).join(", ")));
  return el("span", { class: "traits" }, shown);
}

const text = (value) => (typeof value === "number" && !Number.isInteger(value) ? number(value) : String(value));

/** The parts of a text, with <mark> around the searched one. */
export function marked(text, searched) {
  const at = searched ? text.toLowerCase().indexOf(searched.toLowerCase()) : -1;
  if (at < 0) return [text];
  return [text.slice(0, at), el("mark", {}, text.slice(at, at + searched.length)), text.slice(at + searched.length)];
}

/** A list of chips, each with a button that removes it; the focus moves to the nearest chip left. */
export function chips(list, entries, remove, home) {
  list.replaceChildren(
    ...entries.map((entry, place) => {
      const off = () => {
        remove(place);
        const left = list.querySelectorAll("button");
        (left[Math.min(place, left.length - 1)] ?? home).focus();
      };
      const keys = (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step) list.querySelectorAll("button")[place + step]?.focus();
        if (event.key === "Delete" || event.key === "Backspace") event.preventDefault(), off();
      };
      const button = el("button", { type: "button", "aria-label": `Remove ${entry}`, onclick: off, onkeydown: keys });
      button.append(el("span", { "aria-hidden": "true" }, "✕"));
      return el("li", {}, el("span", {}, entry), button);
    }),
  );
}

/** A debounced function: it runs `wait` milliseconds after its last call; `.off()` cancels it. */
export function later(wait, act) {
  let timer;
  const soon = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
  soon.off = () => clearTimeout(timer);
  return soon;
}
