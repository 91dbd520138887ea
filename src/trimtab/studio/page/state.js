// What this tab is about: settings, what was said, what is typed. It outlives a reload, and fits into a link.

const KEY = "trimtab-studio";
const VERSION = 2;
const TURNS = 40; // that are kept
const LONGEST = 1_500_000; // characters of a link that browsers take

export const PANES = {
  unsteered: "Unsteered", steered: "Steered", asked: "Asked in words", random: "Random vector", opposite: "Opposite sign",
};
export const VIEWS = { talk: "Talk", learn: "Learn", evidence: "Evidence", away: "Take away" };

const FRESH = {
  v: VERSION, view: "talk", chat: false, system: "", draft: "", tokens: 120, temperature: 0, seed: 0, color: true, draw: 0,
  ask: "", askTyped: false, panes: { unsteered: true, steered: true, asked: false, random: false, opposite: false },
  vectors: [], turns: [], run: "", item: "", forms: {},
};

/** The state of this tab: from the link that opened it, or from before a reload. */
export const state = structuredClone(FRESH);
adopt(linked() || kept());

/** What the server said of itself last. */
export const server = { began: 0, ready: false, name: "", vectors: [], jobs: [], runs: [], leaves: {}, problem: "", gone: false };

/** Take a state over, as far as it has the shape of one: links and what is kept may be of another version, or forged. */
export function adopt(there) {
  const fresh = structuredClone(FRESH);
  for (const key of Object.keys(state)) delete state[key];
  Object.assign(state, fresh);
  if (!there || typeof there !== "object" || there.v !== VERSION) return;
  for (const [key, usual] of Object.entries(fresh)) {
    if (typeof usual !== "object" && typeof there[key] === typeof usual && !Number.isNaN(there[key])) state[key] = there[key];
  }
  if (!Object.hasOwn(VIEWS, state.view)) state.view = fresh.view;
  state.tokens = whole(state.tokens, 1, 1000);
  state.seed = whole(state.seed, 0, 1e9);
  state.draw = whole(state.draw, 0, 63);
  state.temperature = Math.max(0, Math.min(3, state.temperature));
  for (const pane of Object.keys(PANES)) if (typeof there.panes?.[pane] === "boolean") state.panes[pane] = there.panes[pane];
  state.vectors = list(there.vectors).filter((v) => typeof v?.name === "string" && Number.isFinite(v.m)).map((v) => ({
    name: v.name, on: v.on === true, m: v.m, layers: Array.isArray(v.layers) && v.layers.every(Number.isInteger) ? v.layers : null,
    positions: text(v.positions), operator: text(v.operator), gate: v.gate && typeof v.gate.name === "string" ? v.gate : null,
  }));
  state.turns = list(there.turns).filter((t) => typeof t?.user === "string").map((t) => ({ user: t.user, answers: answers(t.answers) }));
  if (there.forms && typeof there.forms === "object") state.forms = there.forms;
}

function answers(there) {
  const out = {};
  for (const pane of Object.keys(PANES)) {
    const a = there?.[pane];
    if (!a || typeof a.text !== "string" || typeof a.state !== "string") continue;
    out[pane] = { text: a.text, state: a.state === "streaming" ? "cut" : a.state, said: text(a.said) || "", problem: text(a.problem) || "",
      key: text(a.key) || "", steering: a.steering && typeof a.steering === "object" ? a.steering : {}, settings: a.settings || null,
      receipt: a.receipt || null, reason: a.reason || null, count: a.count ?? null, first: a.first, seconds: a.seconds };
  }
  return out;
}

function list(there) {
  return Array.isArray(there) ? there : [];
}

function text(there) {
  return typeof there === "string" ? there : null;
}

export function whole(x, low, high) {
  return Math.max(low, Math.min(high, Math.round(Number(x)) || low));
}

// ------------------------------------------------------------ kept for a reload

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}

let timer = null;

/** Keep the state for a reload, soon. */
export function keep() {
  clearTimeout(timer);
  timer = setTimeout(keepNow, 150);
}

export function keepNow() {
  state.turns = state.turns.slice(-TURNS);
  for (let left = state.turns.length; left >= 0; left -= 1) { // a browser keeps some megabytes: what was said first goes first
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ ...state, turns: state.turns.slice(state.turns.length - left) }));
      return;
    } catch { /* too much yet */ }
  }
}

addEventListener("pagehide", keepNow);

// ------------------------------------------------------------ the link

/** A link that holds the whole state, as far as browsers take it. What stands behind the # is sent to no server. */
export function link() {
  let turns = state.turns;
  for (;;) {
    const bytes = new TextEncoder().encode(JSON.stringify({ ...state, turns, forms: {} }));
    let letters = "";
    for (const byte of bytes) letters += String.fromCharCode(byte);
    const code = btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    if (code.length < LONGEST || !turns.length) return `${location.origin}/#s=${code}`;
    turns = turns.slice(1);
  }
}

/** The state of the address, which is then cleared of it. */
export function linked() {
  const code = new URLSearchParams(location.hash.slice(1)).get("s");
  if (!code) return null;
  history.replaceState(null, "", location.pathname);
  try {
    const letters = atob(code.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(letters, (c) => c.charCodeAt(0))));
  } catch {
    return null;
  }
}

// ------------------------------------------------------------ vectors

/** What the server says of a vector of the state. */
export function about(name) {
  return server.vectors.find((v) => v.name === name) || null;
}

/** A vector as its file recommends it. */
export function fresh(vector, on) {
  return { name: vector.name, on, m: vector.multiplier ?? 1, layers: null, positions: null, operator: null, gate: null };
}

/** Vectors that act now: switched on, there, for this model, and not at zero. */
export function acting() {
  return state.vectors.filter((v) => v.on && v.m !== 0 && about(v.name) && !about(v.name).odd);
}

/** The parts of a request; `sign` is -1 for the opposite. */
export function parts(sign = 1) {
  return acting().map((v) => {
    const part = { vector: v.name, multiplier: sign * v.m };
    for (const key of ["layers", "positions", "operator", "gate"]) if (v[key] !== null) part[key] = v[key];
    return part;
  });
}

/** The line of the notation for these vectors; null where a line cannot say it. */
export function line() {
  const every = acting();
  const where = new Set(every.map((v) => v.positions));
  if (!every.length || every.some((v) => v.layers || v.operator || v.gate) || where.size > 1) return null;
  const terms = every.map((v, k) => `${v.m < 0 ? "- " : k ? "+ " : ""}${Math.abs(v.m)} ${v.name}`);
  const positions = [...where][0];
  return terms.join(" ") + (positions ? ` @ ${positions}` : "");
}

/** What is said above a pane. */
export function said(sign = 1) {
  const every = acting();
  if (!every.length) return "no vector is on";
  return every.map((v) => `${Number((sign * v.m).toPrecision(3))} ${about(v.name).label}`).join(" + ").replaceAll("+ -", "− ");
}

/** The behavior in words: as somebody typed it, else as the first acting vector's file or data set says. */
export function inWords() {
  if (state.askTyped) return state.ask;
  return acting().map((v) => about(v.name).ask).find((t) => t) || "";
}
