// Elements made from data. Text becomes text nodes and nothing else, so no title can be markup.

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

const whole = new Intl.NumberFormat("en");
const figure = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
export const count = (n) => whole.format(n);
export const number = (x) => (Number.isFinite(x) ? figure.format(x).replace("-", "−") : "–");
export const plural = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;

/** What an item is called: its title, else its id. */
export const titleOf = (item) => item.title ?? String(item.item);

/** The text in pieces, with <mark> around the part that was searched for. */
export function marked(text, sought) {
  const at = sought ? text.toLowerCase().indexOf(sought.toLowerCase()) : -1;
  if (at < 0) return [text];
  return [text.slice(0, at), el("mark", {}, text.slice(at, at + sought.length)), text.slice(at + sought.length)];
}

/** A list of chips, each with a button that removes it; the focus stays near. */
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

/** A function that is called once things have been quiet for `wait` milliseconds; `.off()` calls it off. */
export function later(wait, act) {
  let timer;
  const soon = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
  soon.off = () => clearTimeout(timer);
  return soon;
}
