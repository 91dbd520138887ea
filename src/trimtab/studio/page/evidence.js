// Evidence: a run folder, item by item. Every item is a point; a click reads it at every multiplier.

import { digits, fill, h, keyed, percent, s, signed, tell } from "./dom.js";
import * as api from "./server.js";
import { keep, server, state } from "./state.js";
import { measure } from "./vectors.js";

const SHOWN = 40; // items that are listed at first
const RADIUS = 8; // pixels around a point that are the point

export function evidence(told) {
  const list = h("ul", { class: "runs" }), page = h("div", { class: "run" });
  const element = h("section", { class: "evidence", "aria-label": "Evidence" },
    h("nav", { "aria-label": "Run folders" }, h("h2", {}, "Runs"), list), page);
  let stamp = "", loading = false, held = null; // what is drawn; the run it is, and its parts that stay

  function update() {
    keyed(list, server.runs, (r) => r.name, entry);
    const run = server.runs.find((r) => r.name === state.run);
    if (run && `${run.name} ${run.stamp}` !== stamp && !loading) load(run);
    if (!run && stamp !== "none" && server.began) { stamp = "none"; fill(page, server.runs.length ? h("p", { class: "empty" }, "Choose a run.") : nothing()); }
  }

  function entry(first) {
    const verdict = h("small", {}), button = h("button", { type: "button", onclick: () => {
      Object.assign(state, { run: first.name, item: "" });
      stamp = "";
      keep();
      update();
    } }, h("b", {}, first.name), verdict);
    return { element: h("li", {}, button), update: (r) => {
      tell(verdict, r.verdict || "under way");
      if (r.name === state.run) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    } };
  }

  function nothing() {
    return h("div", { class: "empty" }, h("p", {}, h("b", {}, `No run in ${server.folder || "runs"} yet. `)),
      h("p", {}, "A run measures a vector on items it was not learned on, beside controls. In a terminal:"),
      h("pre", { tabindex: 0 }, `trimtab run first-light --to ${server.folder || "runs"}/first-light`),
      h("p", {}, "It shows up here while it runs. Or here, in a minute or two for a small model:"),
      h("p", { class: "buttons" }, server.vectors.filter((v) => v.measurable && !v.odd).map((v) =>
        h("button", { type: "button", onclick: () => measure(v, told) }, `Measure ${v.label} on held-out items of ${v.measurable}`))));
  }

  async function load(run) {
    loading = true;
    stamp = `${run.name} ${run.stamp}`;
    try {
      if (run.items) drawRun(run, await api.get(`/studio/runs/${encodeURIComponent(run.name)}`));
      else fill(page, h("h2", {}, run.title), h("p", {}, run.verdict), report(run));
    } catch (problem) {
      held = null;
      fill(page, h("h2", {}, run.name), h("p", { class: "warning" }, problem.message),
        h("button", { type: "button", class: "small", onclick: () => { stamp = ""; update(); } }, "Try again"), run.report && report(run));
    }
    loading = false;
    if (state.run !== run.name) update(); // another one was chosen meanwhile
  }

  // ---------------------------------------------------------- a run

  function drawRun(run, seen) {
    const order = seen.items.ids.map((_, k) => k).sort((a, b) => seen.items.slope[a] - seen.items.slope[b]);
    const wrong = order.filter((k) => seen.items.slope[k] <= 0);
    const figure = (name) => seen.figures.find((f) => f.name === name);
    const same = held && held.run === run.name, focused = document.activeElement?.dataset?.item, scroll = same ? held.list.scroller.scrollTop : 0;
    const panel = same ? held.panel : h("div", { class: "item", tabindex: 0, role: "region", "aria-label": "Item" },
      h("p", { class: "hint" }, "Click a point, or an item of the list, to read it at every multiplier."));
    const open = (k) => { state.item = seen.items.ids[k]; keep(); cloud.mark(k); showItem(run, state.item, panel); };
    const cloud = scatter(seen, open), listed = items(seen, order, open, same ? held.list.most() : SHOWN);
    const whole = (same && held.report) || (run.report && report(run));
    held?.cloud.stop();
    held = { run: run.name, panel, cloud, list: listed, report: whole };
    fill(page,
      h("h2", {}, seen.title),
      seen.unfinished > 0 && h("p", { class: "warning" }, `Under way: ${seen.unfinished} items are not complete, and not shown.`),
      h("div", { class: "verdict" }, h("strong", {}, seen.verdict), h("p", {}, seen.next), h("ul", {}, seen.reasons.map((r) => h("li", {}, r)))),
      h("div", { class: "figures" }, stat("steerability", figure("steerability"), seen.unit + " per multiplier"),
        stat("wrong way", figure("anti-steerable share"), "of the items", percent), stat("unsteered", figure("propensity, unsteered"), seen.unit)),
      h("div", { class: "two" },
        h("figure", {}, h("h3", {}, "Every item"), cloud.element, h("figcaption", {}, `Slope against propensity without the vector; ${wrong.length} of ${order.length} go the wrong way.`)),
        h("div", {}, panel)),
      h("div", { class: "two" }, listed.element,
        h("div", {}, h("figure", {}, h("h3", {}, "Vector and controls"), curves(seen.multipliers, seen.curves, seen.asked), h("figcaption", {}, "Mean propensity against the multiplier; gray are controls, dotted is asking in words.")),
          seen.layers.length > 1 && h("figure", {}, h("h3", {}, "Where to steer"), layers(seen), h("figcaption", {}, "Mean slope on validation items at each layer; the bar marks the one that was tested.")))),
      run.vector && h("p", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: () => talkTo(run) }, "Talk to this vector")),
      held.report);
    listed.scroller.scrollTop = scroll;
    if (focused) listed.element.querySelector(`[data-item="${focused}"]`)?.focus();
    const at = seen.items.ids.indexOf(state.item);
    if (at >= 0) { cloud.mark(at); if (!same) showItem(run, state.item, panel); }
  }

  async function talkTo(run) {
    try {
      const { name } = await api.post(`/studio/runs/${encodeURIComponent(run.name)}/vector`, {});
      await told({ refresh: true, on: name, view: "talk" });
    } catch (problem) {
      await told({ problem: problem.message });
    }
  }

  async function showItem(run, id, panel) {
    const drawn = await api.get(`/studio/runs/${encodeURIComponent(run.name)}/items/${encodeURIComponent(id)}`)
      .then((item) => drawItem(run, item), (problem) => h("p", { class: "warning" }, problem.message));
    if (state.item === id) fill(panel, drawn); // else another one was clicked meanwhile
  }

  function drawItem(run, item) {
    const others = Object.entries(item.values).filter(([k]) => k !== "vector").map(([name, mean]) => ({ name, mean }));
    const said = h("div", { class: "said" }, item.said.map(answer));
    const live = run.vector && item.prompt && server.ready && h("button", { type: "button", class: "small", onclick: () => answerAll(run, item, said, live) }, "Let the model answer at every multiplier");
    return [h("h3", {}, item.slope > 0 ? "Goes the right way" : "Goes the wrong way"),
      (item.before || []).map(([role, text]) => h("p", { class: "before" }, h("b", {}, role), " ", text)),
      h("p", { class: "text" }, item.prompt || `item ${item.id}`),
      item.positive && h("dl", {}, h("dt", {}, "with the behavior"), h("dd", {}, item.positive), h("dt", {}, "without"), h("dd", {}, item.negative)),
      curves(item.multipliers, [{ name: "vector", mean: item.values.vector }, ...others], []),
      h("p", { class: "hint" }, `Slope ${signed(item.slope)} ${item.unit} per multiplier; at ${item.multipliers.map((m, k) => `${digits(m)}: ${digits(item.values.vector[k], 2)}`).join(", ")}`),
      said, live];
  }

  function answer({ multiplier, text }) {
    return h("p", {}, h("b", {}, multiplier === 0 ? "unsteered" : signed(multiplier, 3)), " ", h("span", { class: "text" }, text));
  }

  async function answerAll(run, item, said, button) {
    button.disabled = true;
    try {
      const { name } = await api.post(`/studio/runs/${encodeURIComponent(run.name)}/vector`, {});
      const rows = item.multipliers.map((m) => h("p", {}, h("b", {}, m === 0 ? "unsteered" : signed(m, 3)), " ", h("span", { class: "text" }, "…")));
      fill(said, rows);
      const messages = [...(item.before || []).map(([role, content]) => ({ role, content })), { role: "user", content: item.prompt }];
      await Promise.all(item.multipliers.map(async (m, k) => {
        let text = "";
        const steering = m === 0 ? {} : { steer: [{ vector: name, multiplier: m }], force: true };
        await api.stream({ messages, max_tokens: 60, temperature: 0, ...steering }, (piece) => { text += piece; rows[k].lastChild.textContent = text; });
      }));
      await told({ refresh: true });
    } catch (problem) {
      fill(said, h("p", { class: "warning" }, problem.message));
    }
    button.disabled = false;
  }

  return { element, update };
}

function stat(title, figure, unit, told = (x) => signed(x)) {
  if (!figure) return null;
  const hasBounds = figure.lo !== null && figure.lo !== undefined;
  return h("div", { class: "stat" }, h("b", {}, told(figure.value)), h("span", {}, title),
    h("small", {}, `${hasBounds ? `${told(figure.lo)} to ${told(figure.hi)}, ` : ""}n ${figure.n} · ${unit}${figure.control !== null && figure.control !== undefined ? ` · controls ${told(figure.control)}` : ""}`));
}

function items(seen, order, open, begin) {
  const table = h("ol", { class: "items" }), scroller = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Items" }, table);
  let most = 0;
  const more = h("button", { type: "button", class: "small", onclick: () => grow(most + 200) }, "More");
  function grow(to) {
    table.append(...order.slice(most, to).map((k) => h("li", {}, h("button", { type: "button", "data-item": seen.items.ids[k], class: seen.items.slope[k] <= 0 ? "wrong" : "", onclick: () => open(k) },
      seen.words[seen.items.ids[k]] || `item ${seen.items.ids[k]}`, h("small", {}, `slope ${signed(seen.items.slope[k])}, unsteered ${digits(seen.items.propensity[k], 2)}`)))));
    most = to;
    more.hidden = most >= order.length;
  }
  grow(begin);
  const element = h("div", {}, h("h3", {}, "Items, the worst first"), scroller, more);
  return { element, scroller, most: () => most };
}

/** All items as points on a canvas: ten thousand are drawn in a few milliseconds. */
function scatter(seen, open) {
  const { slope, propensity, ids } = seen.items;
  const canvas = h("canvas", { class: "cloud", role: "img", "aria-label": `${ids.length} items, by propensity and slope; the list beside it has them in order` });
  const extent = (values) => [Math.min(...sample(values), 0), Math.max(...sample(values), 0)];
  const [x0, x1] = extent(propensity), [y0, y1] = extent(slope);
  let marked = -1;
  const place = (k) => [14 + ((canvas.clientWidth - 28) * (propensity[k] - x0)) / (x1 - x0 || 1), canvas.clientHeight - 12 - ((canvas.clientHeight - 24) * (slope[k] - y0)) / (y1 - y0 || 1)];
  function draw() {
    const wide = canvas.clientWidth, high = canvas.clientHeight, ratio = devicePixelRatio || 1;
    if (!wide) return;
    canvas.width = wide * ratio;
    canvas.height = high * ratio;
    const pen = canvas.getContext("2d"), css = getComputedStyle(document.documentElement);
    pen.scale(ratio, ratio);
    const level = high - 12 - ((high - 24) * (0 - y0)) / (y1 - y0 || 1);
    pen.strokeStyle = css.getPropertyValue("--line-strong");
    pen.beginPath(); pen.moveTo(0, level); pen.lineTo(wide, level); pen.stroke();
    pen.globalAlpha = ids.length > 2000 ? 0.35 : 0.75;
    for (const [color, wanted] of [["--accent", (v) => v > 0], ["--bad", (v) => v <= 0]]) {
      pen.fillStyle = css.getPropertyValue(color);
      for (let k = 0; k < ids.length; k += 1) {
        if (!wanted(slope[k])) continue;
        const [x, y] = place(k);
        pen.fillRect(x - 2, y - 2, 4, 4);
      }
    }
    pen.globalAlpha = 1;
    if (marked >= 0) {
      const [x, y] = place(marked);
      pen.strokeStyle = css.getPropertyValue("--ink");
      pen.lineWidth = 2;
      pen.beginPath(); pen.arc(x, y, 7, 0, 7); pen.stroke();
    }
  }
  canvas.addEventListener("click", (e) => {
    const box = canvas.getBoundingClientRect();
    let best = -1, least = RADIUS ** 2;
    for (let k = 0; k < ids.length; k += 1) {
      const [x, y] = place(k), far = (x - (e.clientX - box.left)) ** 2 + (y - (e.clientY - box.top)) ** 2;
      if (far <= least) { best = k; least = far; }
    }
    if (best >= 0) open(best);
  });
  const size = new ResizeObserver(draw), dark = matchMedia("(prefers-color-scheme: dark)");
  size.observe(canvas);
  dark.addEventListener("change", draw);
  function stop() { size.disconnect(); dark.removeEventListener("change", draw); }
  return { element: canvas, mark: (k) => { marked = k; draw(); }, stop };
}

/** Math.min and Math.max take only so many arguments. */
function sample(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  return values.length ? [low, high] : [0];
}

/** Lines over the multipliers: the vector on top, its controls in gray. */
function curves(multipliers, every, asked) {
  const numbers = [...every.flatMap((c) => [...c.mean, ...(c.name === "vector" ? [...(c.lo || []), ...(c.hi || [])] : [])]), ...asked.map((a) => a.value)].filter((v) => v !== null);
  const top = Math.max(...sample(numbers)), bottom = Math.min(...sample(numbers)), left = multipliers[0], right = multipliers.at(-1);
  const x = (m) => 34 + (260 * (m - left)) / (right - left || 1), y = (v) => 134 - (120 * (v - bottom)) / (top - bottom || 1);
  const points = (m, values) => m.map((a, k) => (values[k] === null ? null : `${x(a).toFixed(1)},${y(values[k]).toFixed(1)}`)).filter(Boolean).join(" ");
  const vector = every.find((c) => c.name === "vector"), others = every.filter((c) => c !== vector);
  const grid = (c) => c.m || multipliers;
  const band = vector?.lo && s("polygon", { class: "band", points: `${points(grid(vector), vector.lo)} ${points([...grid(vector)].reverse(), [...vector.hi].reverse())}` });
  return s("svg", { class: "chart", viewBox: "0 0 300 156", role: "img", "aria-label": "propensity against the multiplier" },
    s("line", { class: "axis", x1: 34, x2: 294, y1: 134, y2: 134 }), bottom < 0 && top > 0 && s("line", { class: "axis", x1: 34, x2: 294, y1: y(0), y2: y(0) }),
    asked.map((a) => s("line", { class: "asked", x1: 34, x2: 294, y1: y(a.value), y2: y(a.value) })),
    others.map((c) => s("polyline", { class: "control", points: points(grid(c), c.mean) })), band,
    vector && s("polyline", { class: "vector", points: points(grid(vector), vector.mean) }),
    text(30, 138, digits(bottom, 2), "end"), text(30, 20, digits(top, 2), "end"), text(34, 150, digits(left), "start"), text(294, 150, digits(right), "end"),
    left < 0 && right > 0 && text(x(0), 150, "0", "middle"));
}

function layers(seen) {
  const every = seen.layers, top = Math.max(...sample(every.map((p) => p.slope)), 0), bottom = Math.min(...sample(every.map((p) => p.slope)), 0);
  const wide = 260 / every.length, y = (v) => 134 - (120 * (v - bottom)) / (top - bottom || 1);
  return s("svg", { class: "chart", viewBox: "0 0 300 156", role: "img", "aria-label": "mean slope by layer" },
    every.map((p, k) => s("rect", { class: p.layer === seen.layer ? "bar chosen" : "bar", x: 34 + k * wide + 1, width: Math.max(1, wide - 2), y: Math.min(y(0), y(p.slope)), height: Math.abs(y(p.slope) - y(0)) })),
    s("line", { class: "axis", x1: 34, x2: 294, y1: y(0), y2: y(0) }), text(30, 20, digits(top, 2), "end"), text(34, 150, `block ${every[0].layer}`, "start"), text(294, 150, `${every.at(-1).layer}`, "end"));
}

function text(x, y, words, anchor) {
  return s("text", { x, y, "text-anchor": anchor }, words);
}

/** The report, in a frame that may run nothing and reach nothing. */
function report(run) {
  const frame = h("iframe", { title: `Report of ${run.name}`, sandbox: "" }), note = h("p", { class: "warning" });
  const details = h("details", { class: "report" }, h("summary", {}, "The whole report"), note, frame);
  details.addEventListener("toggle", async () => {
    if (!details.open || frame.hasAttribute("srcdoc")) return;
    try {
      frame.setAttribute("srcdoc", await api.text(`/studio/runs/${encodeURIComponent(run.name)}/report`));
    } catch (problem) {
      note.textContent = problem.message; // the next time it is opened it is asked for again
    }
  });
  return details;
}
