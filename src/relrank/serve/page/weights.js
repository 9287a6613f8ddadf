// Sliders for relation weights: factors of the fitted weight, with "off" at the left end.

import { count, el, number } from "./dom.js";

const STEPS = 21; // positions above "off"
const MIDDLE = 11; // the fitted weight
const HALF = 2; // steps per doubling: from 1/32 of the fitted weight to 32 times it

/** Draw a slider for every relation with a weight in a `unit`; `change(relation, weight)` is called on each move. */
export function drawSliders(into, relations, chosen, unit, change) {
  const weighted = relations.filter((relation) => relation.weight !== null);
  const common = Math.max(...weighted.map((relation) => relation.weight), 1);
  into.replaceChildren(...weighted.map((relation) => slider(relation, relation.weight || common, chosen, unit, change)));
}

function slider(relation, base, chosen, unit, change) {
  const fitted = relation.weight;
  const home = fitted ? MIDDLE : 0;
  const now = chosen[relation.name] ?? fitted;
  const id = `weight-${relation.name}`;
  const range = el("input", { type: "range", id, min: 0, max: STEPS, step: 1, value: positionOf(now, base), "aria-describedby": `${id}-of` });
  const output = el("output", { for: id });
  const show = (weight) => {
    const value = weight === 0 ? "off" : `${fitted ? `× ${number(weight / fitted)}, ` : ""}${number(weight)} ${unit}`;
    output.value = value;
    output.classList.toggle("changed", weight !== fitted);
    range.setAttribute("aria-valuetext", `${value}${weight === fitted ? ", as fitted" : ""}`);
  };
  show(now);
  range.addEventListener("input", () => {
    const position = Number(range.value);
    const weight = position === home ? fitted : weightOf(position, base);
    show(weight);
    change(relation.name, weight);
  });
  const mark = el("span", { class: "fitted", "aria-hidden": "true" });
  mark.style.setProperty("--at", String(home / STEPS));
  return el(
    "div",
    { class: "slider" },
    el("label", { for: id }, relation.name),
    output,
    el("div", { class: "track" }, range, mark),
    el("p", { class: "note", id: `${id}-of` }, `${relation.source} → ${relation.target}, ${count(relation.edges)} links; fitted: ${fitted === 0 ? "off" : `${number(fitted)} ${unit}`}`),
  );
}

const weightOf = (position, base) => (position === 0 ? 0 : Number((base * 2 ** ((position - MIDDLE) / HALF)).toPrecision(3)));
const positionOf = (weight, base) => (weight === 0 ? 0 : Math.min(STEPS, Math.max(1, MIDDLE + Math.round(HALF * Math.log2(weight / base)))));
