// The slider is the dose: what a multiplier costs and brings, drawn under the handle that sets it.

import { digits, h, percent, s, signed } from "./dom.js";
import { server } from "./state.js";

const HIGH = 46; // pixels of the picture
const WORDS = {
  weak: ["weak", "no more than its controls do"],
  ship: ["ship", "fit for use"],
  unsure: ["unsure", "between the last dose whose text is whole and the first that breaks it"],
  broken: ["broken", "the text breaks here"],
  unknown: ["unknown", "nobody has measured this dose"],
};

/** The largest multiplier of a slider, and its step. */
export function reach(vector) {
  const points = vector.use?.dose?.points || [];
  const unit = size(vector, null);
  const last = points.length ? points[points.length - 1].multiplier * 1.12 : 0;
  let most = Math.max(last, 2 * Math.abs(vector.multiplier || 0), points.length ? 0 : unit ? 1 / unit : 3);
  if (unit) most = Math.min(most, (0.99 * server.limit) / unit);
  const power = Math.floor(Math.log10(most / 50)), step = 10 ** power;
  return { most: rounded(Math.ceil(most / step - 1e-9) * step, step), step: rounded(step, step) };
}

/** A number in the decimals of a step: half the way from -4.6 to 4.6 is 0. */
export function rounded(x, step) {
  return Number(x.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)))) || 0;
}

/** |v| over the median |h|, the largest of the layers it acts at; null where the model is not there yet. */
export function size(vector, layers) {
  const at = layers || vector.layers;
  const sizes = at.map((k) => vector.unit[String(k)]).filter((x) => x);
  return sizes.length ? Math.max(...sizes) : null;
}

/** What a multiplier is good for. */
export function zone(vector, m, changed) {
  if (m === 0) return ["off", "off"];
  if (changed) return ["unknown", "not measured at these layers or positions, with this operator or gate"];
  if (vector.ship && m >= vector.ship[0] - 1e-9 && m <= vector.ship[1] + 1e-9) return ["ship", `fit for use (${digits(vector.ship[0])} to ${digits(vector.ship[1])})`];
  const there = m > 0 && vector.zones.find((z) => m >= z.lo - 1e-9 && (z.hi === null || m <= z.hi + 1e-9) && inside(z, m));
  return WORDS[there ? there.kind : "unknown"];
}

function inside(z, m) {
  return z.kind === "ship" || (m < (z.hi ?? Infinity));
}

/** The price of a multiplier in words: of the measured dose that is nearest. */
export function price(vector, m) {
  const points = vector.use?.dose?.points || [];
  if (!points.length || m <= 0) return m < 0 && points.length ? "Below zero nothing was measured." : "";
  const point = points.reduce((best, p) => (Math.abs(p.multiplier - m) < Math.abs(best.multiplier - m) ? p : best));
  if (m > points[points.length - 1].multiplier * 1.2) return "Beyond the strongest dose that was measured.";
  const rise = point.propensity === null || point.propensity === undefined ? "" :
    ` · behavior ${signed(point.propensity)} ${vector.use.dose.unit} (controls ${digits(point.control, 2)})`;
  return `At ${digits(point.multiplier)}: drift ${digits(point.drift, 2)} nats a token${rise} · text broken ${percent(point.broken)}`;
}

/** The picture: zones, drift and behavior over the multipliers. */
export function picture(vector) {
  const { most } = reach(vector);
  const x = (m) => 50 + (50 * m) / most;
  const points = vector.use?.dose?.points || [];
  const zones = vector.zones.map((z) => {
    const end = Math.min(z.hi ?? most, most);
    return s("rect", { class: `zone ${z.kind}`, x: x(z.lo), y: 0, width: Math.max(0, x(end) - x(z.lo)), height: HIGH });
  });
  const drift = points.map((p) => [x(p.multiplier), p.drift]);
  const rise = points.filter((p) => p.propensity !== null && p.propensity !== undefined).map((p) => [x(p.multiplier), p.propensity]);
  return s("svg", { class: "dose", viewBox: `0 0 100 ${HIGH}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    zones, path(drift, "drift"), path(rise, "rise"), s("line", { class: "zero", x1: 50, x2: 50, y1: 0, y2: HIGH }));
}

function path(points, kind) {
  if (points.length < 2) return null;
  const top = Math.max(...points.map((p) => p[1]), 1e-9), bottom = Math.min(0, ...points.map((p) => p[1]));
  const y = (v) => HIGH - 4 - ((HIGH - 8) * (v - bottom)) / (top - bottom);
  const all = [[50, 0], ...points]; // nothing is moved at 0
  return s("polyline", { class: kind, points: all.map((p) => `${p[0].toFixed(2)},${y(p[1]).toFixed(2)}`).join(" ") });
}

/** What the colors and lines mean. */
export function legend(vector) {
  if (!vector.zones.length) return h("p", { class: "hint" }, "No dose was measured: multiplier 1 is the vector as it was learned.");
  const key = (kind, text) => h("span", { class: "key" }, h("i", { class: `swatch ${kind}` }), text);
  return h("p", { class: "hint" }, key("ship", "fit for use"), key("weak", "no more than controls"), key("unsure", "between whole and broken"),
    key("broken", "text breaks"), key("hatched", "not measured"), key("rise", "behavior: the rise of the preference for answers that show it"),
    key("drift", "drift from the unsteered model"), " Controls: vectors without the behavior in them. ", vector.red);
}
