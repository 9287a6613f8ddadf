// A text field with type-ahead: the ARIA combobox pattern with a listbox, by keyboard, pointer and screen reader.

import { byId, el, later, marked } from "./dom.js";

const WAIT = 140; // milliseconds after the last key press before a search

/**
 * Add type-ahead to a field.
 *
 * `find(text, signal)` returns a promise of entries; `show(entry)` the text of an entry; `more(entry)`, if given, an element behind it; `pick(entry)` is called with the selected one;
 * `plain(text)`, if given, with the typed text when Enter is pressed without a selection; `back()` on Backspace in an empty field.
 */
export function combobox(field, { find, show, more = null, pick, plain = null, back = null, tell }) {
  const list = byId(field.getAttribute("aria-controls"));
  let entries = [];
  let active = -1;
  let search = null;

  const close = () => {
    soon.off();
    search?.abort();
    list.hidden = true;
    active = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const move = (to) => {
    const options = list.querySelectorAll('[role="option"]');
    if (!options.length) return;
    active = (to + options.length) % options.length;
    options.forEach((option, place) => option.setAttribute("aria-selected", String(place === active)));
    options[active].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", options[active].id);
  };
  const choose = (place) => {
    const entry = entries[place];
    close();
    pick(entry);
  };
  const open = async (andMove = false) => {
    soon.off();
    search?.abort();
    const mine = (search = new AbortController());
    const text = field.value.trim();
    let problem = null;
    try {
      entries = await find(text, mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return;
      [entries, problem] = [[], error];
    }
    if (mine.signal.aborted || document.activeElement !== field) return;
    const options = entries.map((entry, place) =>
      el(
        "li",
        { role: "option", id: `${list.id}-${place}`, "aria-selected": "false", onclick: () => choose(place) },
        ...marked(show(entry), text),
        more?.(entry),
      ),
    );
    const notice = problem ? `No search: ${problem.message}` : entries.length ? null : "Nothing found";
    list.replaceChildren(...(notice ? [el("li", { class: "none", role: "presentation" }, notice)] : options));
    list.hidden = false;
    active = -1;
    field.removeAttribute("aria-activedescendant");
    field.setAttribute("aria-expanded", "true");
    tell(notice ?? `${entries.length} found, arrow down to choose`);
    if (andMove) move(0);
  };
  const soon = later(WAIT, () => (field.value.trim() ? open() : close()));

  field.addEventListener("input", soon);
  field.addEventListener("click", () => list.hidden && open());
  field.addEventListener("blur", close);
  // Pressing on the list must not move the focus from the field: blur would close the list before the click.
  list.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("mousedown", (event) => event.preventDefault());
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const shown = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!shown) open(true);
      else if (event.key === "ArrowDown") move(active + 1);
      else move(active < 0 ? -1 : active - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (shown && active >= 0) choose(active);
      else if (plain && field.value.trim()) close(), plain(field.value.trim());
      else if (shown && entries.length === 1) choose(0);
      else if (!shown) open(true);
    } else if (event.key === "Escape") {
      if (shown || field.value) event.preventDefault();
      if (shown) close();
      else field.value = "";
    } else if (event.key === "Backspace" && !field.value && back) {
      back();
    }
  });
}
