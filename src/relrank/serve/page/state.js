// The state of the page in the address bar: #run=…&item=…&item=…&with=REL:VALUE&weight=REL:NUMBER&compare_with=…

/** The empty state. */
export const blank = () => ({ run: null, mode: "history", user: null, history: [], with: [], weights: {}, compareWith: "", exclude: true });

/** The state of a hash; invalid parts are ignored. Ids stay text. */
export function read(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const state = blank();
  state.run = parts.get("run");
  state.user = parts.get("user") || null;
  state.mode = state.user !== null ? "user" : "history";
  state.history = [...new Set(parts.getAll("item"))];
  state.with = parts.getAll("with").map(split).filter(([, value]) => value).map(([relation, value]) => ({ relation, value }));
  for (const [relation, value] of parts.getAll("weight").map(split)) {
    if (value !== "" && Number(value) >= 0 && Number.isFinite(Number(value))) state.weights[relation] = Number(value);
  }
  state.compareWith = parts.get("compare_with") ?? "";
  state.exclude = parts.get("seen") !== "shown";
  return state;
}

/** The hash of a state. */
export function write(state) {
  const parts = new URLSearchParams();
  if (state.run !== null) parts.append("run", state.run);
  if (state.mode === "user" && state.user !== null) parts.append("user", state.user);
  if (state.mode === "history") for (const item of state.history) parts.append("item", item);
  for (const { relation, value } of state.with) parts.append("with", `${relation}:${value}`);
  for (const [relation, value] of Object.entries(state.weights)) parts.append("weight", `${relation}:${value}`);
  if (state.compareWith) parts.append("compare_with", state.compareWith);
  if (!state.exclude) parts.append("seen", "shown");
  return `#${parts}`;
}

/** Whether there is a user or a history. */
export const named = (state) => (state.mode === "user" ? state.user !== null : state.history.length > 0);

const split = (text) => {
  const at = text.indexOf(":");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
};
