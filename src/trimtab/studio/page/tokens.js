// A text token by token: what the vector changed, what would have come instead, and how far the stream points its way.

import { digits, fill, h, percent, s, signed } from "./dom.js";

const STRONG = 3; // nats at which a color is full
const tip = document.getElementById("tip"), aloud = document.getElementById("aloud");

/** The tokens of a comparison, colored by the change of their log-probability. Arrow keys move from one to the next. */
export function colored(found, by) {
  const spans = found.tokens.map((t, k) => h("span", { class: "token", "data-k": k }, t.token));
  spans.forEach((span, k) => paint(span, found.tokens[k].steered - found.tokens[k].unsteered));
  const label = "The answer, token by token: arrow keys move, and tell what was changed";
  const element = h("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": label }, spans);
  let at = -1;
  function show(k, spoken = false) {
    spans[at]?.classList.remove("here");
    at = k;
    if (k < 0) return hide();
    spans[k].classList.add("here");
    fill(tip, about(found.tokens[k], by));
    tip.hidden = false;
    put(spans[k].getClientRects()[0] || spans[k].getBoundingClientRect());
    if (spoken) aloud.textContent = words(found.tokens[k]);
    return undefined;
  }
  element.addEventListener("pointerover", (e) => { if (e.target.dataset.k) show(Number(e.target.dataset.k)); });
  element.addEventListener("pointerleave", () => show(-1));
  element.addEventListener("blur", () => show(-1));
  element.addEventListener("keydown", (e) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[e.key];
    if (e.key === "Escape" && at >= 0) { e.stopPropagation(); show(-1); }
    if (to === undefined) return;
    e.preventDefault();
    show(Math.max(0, Math.min(spans.length - 1, to)), true);
  });
  return element;
}

function paint(span, change) {
  const share = Math.min(1, Math.abs(change) / STRONG);
  if (share < 0.03) return;
  span.style.setProperty("--share", `${Math.round(100 * share)}%`);
  span.classList.add(change > 0 ? "up" : "down");
}

export function hide() {
  tip.hidden = true;
}

addEventListener("scroll", hide, true);

function words(token) {
  const best = token.alternatives.unsteered[0];
  return `${token.token}: ${percent(Math.exp(token.steered))} with it, ${percent(Math.exp(token.unsteered))} without; there ${best.token} comes first`;
}

/** Both models' views of a token. */
function about(token, by) {
  const change = token.steered - token.unsteered;
  return [
    h("p", {}, h("b", {}, visible(token.token)), ` ${signed(change)} nats by ${by}`),
    h("div", { class: "columns" }, column("with it", token.steered, token.alternatives.steered),
      column("without it", token.unsteered, token.alternatives.unsteered)),
  ];
}

function column(title, logprob, alternatives) {
  return h("div", {}, h("p", {}, `${title}: ${percent(Math.exp(logprob))}`), h("ol", {}, alternatives.map((a) =>
    h("li", {}, bar(Math.exp(a.logprob)), h("code", {}, visible(a.token)), ` ${percent(Math.exp(a.logprob))}`))));
}

function bar(share) {
  const element = h("i", { class: "bar" });
  element.style.width = `${Math.max(1, 100 * share)}%`;
  return element;
}

function visible(token) {
  return token.replaceAll("\n", "⏎").replaceAll(" ", "·") || "∅";
}

function put(box) {
  const width = tip.offsetWidth, high = tip.offsetHeight;
  const below = box.bottom + 6 + high < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(innerWidth - width - 8, box.left))}px`;
  tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - high - 6)}px`;
}

/** The projection of the stream on each vector along the answer, with the vectors and without. */
export function projections(found, named) {
  return Object.entries(found.projections).map(([name, along]) => {
    const every = [...along.steered, ...along.unsteered];
    const top = Math.max(...every), bottom = Math.min(...every), n = along.steered.length;
    const y = (v) => 22 - (20 * (v - bottom)) / (top - bottom || 1) - 1;
    const x = (k) => (n > 1 ? (100 * k) / (n - 1) : 50);
    const points = (values) => values.map((v, k) => `${x(k).toFixed(2)},${y(v).toFixed(2)}`).join(" ");
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const told = `this text lies ${digits(mean(along.steered))} along ${named(name)} when it is read with it, ${digits(mean(along.unsteered))} without`;
    return h("figure", { class: "projection", title: "mean projection of the residual stream on the vector’s direction" },
      s("svg", { viewBox: "0 0 100 22", preserveAspectRatio: "none", role: "img", "aria-label": told },
        s("polyline", { class: "without", points: points(along.unsteered) }), s("polyline", { class: "with", points: points(along.steered) })),
      h("figcaption", {}, told));
  });
}
