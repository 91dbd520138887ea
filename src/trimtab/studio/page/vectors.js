// The vectors: each with its switch, its dose, and where, how and when it acts.

import { digits, field, fill, h, keyed, save } from "./dom.js";
import { legend, picture, price, reach, rounded, size, zone } from "./dose.js";
import * as api from "./server.js";
import { about, acting, fresh, keep, server, state } from "./state.js";

const POSITIONS = ["answer", "everywhere", "prompt", "generated", "last", "last_k(8)"];
const GATES = {
  always: ["always", null],
  "cosine-above": ["where the stream points its way: cosine above", ["threshold", 0.1]],
  until: ["until the token", ["tokens", 32]],
  linear: ["falling to 0 at token", ["tokens", 32]],
  "half-life": ["halved every … tokens", ["tokens", 32]],
};

fill(document.getElementById("positions"), POSITIONS.map((p) => h("option", { value: p })));

/** The list of vectors. `changed` is called when what acts is another; `told` with what else there is to say. */
export function panel(changed, told) {
  const list = h("div", { class: "cards" }), empty = nothing(), together = h("p", { class: "hint together" });
  const element = h("section", { class: "vectors", "aria-label": "Vectors" },
    h("h2", {}, "Vectors"), empty, list, together, h("p", { class: "drop" }, adder(told)));
  function update() {
    if (!server.began) return;
    agree();
    empty.hidden = state.vectors.length > 0;
    // a card is drawn anew where its vector is: another file, another model, one that has come or gone
    const name = (v) => { const there = about(v.name); return JSON.stringify([v.name, there?.hash, there?.odd, there?.unit, there?.file]); };
    keyed(list, state.vectors, name, (v) => card(v, changed, told));
    together.hidden = acting().length < 2;
    together.textContent = "Together: each dose was measured alone, and nobody has measured their sum.";
  }
  return { element, update };
}

/** Vectors that are new are added, switched off but for the very first. */
function agree() {
  const first = !state.vectors.length;
  for (const vector of server.vectors) {
    if (state.vectors.some((v) => v.name === vector.name)) continue;
    state.vectors.push(fresh(vector, first && !state.vectors.some((v) => v.on) && !vector.odd));
    keep();
  }
}

function nothing() {
  return h("div", { class: "empty", hidden: true }, h("p", {}, h("b", {}, "No vector yet. ")),
    h("p", {}, "A steering vector is added to what a model computes, and turns one behavior up or down. Learn one under " +
      "“Learn”, or drop a .safetensors file here."));
}

function adder(told) {
  const input = h("input", { type: "file", accept: ".safetensors", class: "hidden", tabindex: -1, "aria-hidden": "true",
    onchange: () => take([...input.files], told).then(() => { input.value = ""; }) });
  return [h("button", { type: "button", class: "small", onclick: () => input.click() }, "Add a vector’s file"), " or drop it on the page", input];
}

/** Take files that were dropped or chosen; the last one is switched on beside what is on. */
export async function take(files, told) {
  const problems = [];
  let on = "";
  for (const file of files) {
    if (!file.name.endsWith(".safetensors")) problems.push(`${file.name} is not a .safetensors file.`);
    else {
      try {
        on = (await api.upload(`/studio/vectors/${encodeURIComponent(file.name.slice(0, -12))}`, file)).name;
      } catch (problem) {
        problems.push(problem.message);
      }
    }
  }
  await told({ refresh: true, beside: on, problem: problems.join("\n") });
}

function card(mine, changed, told) {
  const vector = about(mine.name);
  const element = vector ? there(mine, vector, changed, told) : missing(mine, told);
  return element;
}

function missing(mine, told) {
  const element = h("article", { class: "card gone" }, h("h3", {}, mine.name),
    h("p", {}, "This names a vector that is not here. Add its file, and it takes its place."),
    h("button", { type: "button", class: "small", onclick: () => drop(mine, told) }, "Leave it out"));
  return { element, update: () => {} };
}

function there(mine, vector, changed, told) {
  const { most, step } = reach(vector);
  const range = h("input", { type: "range", min: -most, max: most, step, value: mine.m, "aria-label": `Dose of ${vector.label}` });
  const number = h("input", { type: "number", step: "any", value: digits(mine.m, 4), "aria-label": `Multiplier of ${vector.label}` });
  const toggle = h("input", { type: "checkbox", role: "switch", "aria-label": `Steer with ${vector.label}` });
  const relative = h("span", { class: "relative", title: "the norm of what is added, over the median norm of the residual stream there" });
  const light = h("b", { class: "light" }), brief = h("span", { class: "brief" }), words = h("span", {}), cost = h("p", { class: "price" });
  const body = h("div", { class: "body" },
    h("div", { class: "track" }, picture(vector), range),
    h("div", { class: "reading" }, number, h("span", {}, "×"), relative,
      h("button", { type: "button", class: "small", title: "the recommended dose", "aria-label": `Recommended dose of ${vector.label}`,
        onclick: () => set(vector.multiplier ?? 1) }, `↺ ${digits(vector.multiplier ?? 1)}`)),
    h("p", { class: "zone-told" }, light, words), cost);
  const element = h("article", { class: "card" },
    h("header", {}, h("label", { class: "switch" }, toggle, h("h3", {}, vector.label)), brief),
    vector.odd ? h("p", { class: "warning" }, vector.odd) : body,
    vector.about && h("p", { class: "hint" }, vector.about), more(vector, mine, () => { tell(); changed(); }, told));
  let now = mine;

  function tell() {
    const share = adds(vector, now) ? size(vector, now.layers) : null;
    const elsewhere = Boolean(now.layers || now.operator || now.gate || now.positions);
    const [kind, what] = zone(vector, now.m, elsewhere);
    element.dataset.zone = now.on ? kind : "off";
    element.classList.toggle("on", now.on);
    toggle.checked = now.on;
    relative.textContent = share === null ? "" : `|m v| = ${digits(Math.abs(now.m) * share, 2)} |h|`;
    light.className = `light ${kind}`;
    words.textContent = what;
    brief.textContent = now.on ? "" : `off, ${digits(now.m)} ×`;
    cost.textContent = elsewhere ? "" : price(vector, now.m);
    range.setAttribute("aria-valuetext", `${digits(now.m)}, ${what}`);
  }
  function set(m) {
    now.m = Math.max(-most, Math.min(most, Number(m) || 0));
    if (document.activeElement !== range) range.value = now.m;
    if (document.activeElement !== number) number.value = digits(now.m, 4);
    tell();
    changed();
  }
  range.addEventListener("input", () => set(rounded(Number(range.value), step)));
  number.addEventListener("input", () => { if (number.value !== "") set(number.value); });
  number.addEventListener("blur", () => { number.value = digits(now.m, 4); });
  toggle.addEventListener("change", () => { now.on = toggle.checked; tell(); changed(); });
  function update(other) {
    now = other;
    if (document.activeElement !== range) range.value = now.m;
    if (document.activeElement !== number) number.value = digits(now.m, 4);
    tell();
  }
  return { element, update };
}

/** Whether what a vector does is to be added to the stream: only then is there a length of it. */
function adds(vector, mine) {
  return (mine.operator || vector.use?.operator?.name || "add") === "add";
}

/** Where, how and when it acts, and what its file says. */
function more(vector, mine, applied, told) {
  const recommended = vector.use || {};
  const apply = (key, value) => { mine[key] = value; applied(); };
  const layers = h("select", { onchange: () => apply("layers", layers.value === "" ? null : [Number(layers.value)]) },
    option("", `as its file says (${vector.layers.join(", ")})`),
    vector.held.length > 1 && vector.held.map((k) => option(k, `block ${k}`)));
  layers.value = mine.layers ? String(mine.layers[0]) : "";
  const places = h("input", { list: "positions", value: mine.positions || "", placeholder: recommended.positions || "as its file says",
    onchange: () => apply("positions", places.value.trim() || null) });
  const operator = h("select", { onchange: () => apply("operator", operator.value || null) },
    option("", `as its file says (${recommended.operator?.name || "add"})`), (server.leaves.operator || []).map((o) => option(o, o)));
  operator.value = mine.operator || "";
  const why = vector.use?.why || [];
  return h("details", {}, h("summary", {}, "Where, how, and what is known"),
    h("div", { class: "grid" }, field("Layer", layers), field("Positions", places), field("Operator", operator), gate(mine, apply)),
    legend(vector),
    h("dl", {}, facts(vector).map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])),
    why.length > 0 && h("ul", {}, why.map((w) => h("li", {}, w))),
    h("p", { class: "buttons" },
      vector.measurable && h("button", { type: "button", class: "small", "aria-label": `Measure ${vector.label}`, onclick: () => measure(vector, told) }, "Measure it"),
      h("button", { type: "button", class: "small", "aria-label": `Download ${vector.label}`, onclick: () => download(vector, told) }, "Download"),
      h("button", { type: "button", class: "small", "aria-label": `Put ${vector.label} away`, onclick: () => away(vector, mine, told) }, "Put away")));
}

function gate(mine, apply) {
  const held = mine.gate || {};
  const kind = h("select", { "aria-label": "When" }, option("", "as its file says"), Object.entries(GATES).map(([k, [words]]) => option(k, words)));
  kind.value = held.name === "schedule" ? held.shape : held.name || "";
  const number = h("input", { type: "number", step: "any", "aria-label": "When: number", value: held.tokens ?? held.threshold ?? "" });
  function set() {
    const about = GATES[kind.value]?.[1];
    number.hidden = !about;
    if (!kind.value) return apply("gate", null);
    if (kind.value === "always") return apply("gate", { name: "always" });
    const [key, usual] = about;
    if (number.value === "") number.value = usual;
    const value = Number(number.value);
    return apply("gate", key === "threshold" ? { name: "cosine-above", threshold: value }
      : { name: "schedule", shape: kind.value, tokens: Math.max(1, Math.round(value)) });
  }
  kind.addEventListener("change", () => { number.value = ""; set(); });
  number.addEventListener("change", set);
  number.hidden = !GATES[kind.value]?.[1];
  return field("When", kind, number);
}

function facts(vector) {
  const ship = vector.ship ? `${digits(vector.ship[0])} to ${digits(vector.ship[1])}` : "none is known";
  const known = [["fit for use", ship], ["verdict", vector.verdict], ["learned by", vector.method], ["on", vector.data],
    ["model", vector.model], ["file", vector.file], ["hash", vector.hash]];
  return known.filter(([, v]) => v);
}

function option(value, text) {
  return h("option", { value }, text);
}

async function download(vector, told) {
  try {
    save(`${vector.name}.safetensors`, await api.blob(`/studio/vectors/${vector.name}`));
  } catch (problem) {
    await told({ problem: problem.message });
  }
}

/** Put its measurement into the queue: on held-out items of the behavior it was learned on. */
export async function measure(vector, told) {
  try {
    await api.post("/studio/jobs", { kind: "measure", vector: vector.name });
    await told({ refresh: true, view: "learn" });
  } catch (problem) {
    await told({ problem: problem.message });
  }
}

async function away(vector, mine, told) {
  try {
    await api.remove(`/studio/vectors/${vector.name}`);
  } catch (problem) {
    return told({ problem: problem.message });
  }
  return drop(mine, told);
}

function drop(mine, told) {
  state.vectors = state.vectors.filter((v) => v !== mine);
  return told({ refresh: true });
}
