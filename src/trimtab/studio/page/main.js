// The page: its views, and the loop that asks the server how things are.

import { away } from "./away.js";
import { fill, h, lasting, tell } from "./dom.js";
import { evidence } from "./evidence.js";
import { learn } from "./learn.js";
import * as api from "./server.js";
import { about, adopt, keep, linked, server, state, VIEWS } from "./state.js";
import { talk } from "./talk.js";
import { panel, take } from "./vectors.js";

const CALM = 300; // milliseconds a slider rests before the text follows

const main = document.getElementById("main"), banner = document.getElementById("banner"), status = document.getElementById("status");
const [words, close] = banner.children;
let asking = null, asked = 0, problem = "", rest = null, locked = null;

const vectors = panel(changed, told);
const views = { talk: talk(told), learn: learn(told, tryIt), evidence: evidence(told), away: away() };
const buttons = Object.entries(VIEWS).map(([name, text]) => h("button", { type: "button", "data-view": name, onclick: () => told({ view: name }) }, text));
fill(document.getElementById("views"), buttons);
close.addEventListener("click", () => { problem = ""; update(); });

/** What acts is another. */
function changed() {
  keep();
  clearTimeout(rest);
  rest = setTimeout(() => views.talk.changed(), CALM); // several switches, or the way of a slider, are one change
  views.away.update();
  tell(status.lastChild, lightWords());
}

/** Something happened: a problem to say, a state to ask for, a vector to switch on (alone, or beside others), a view. */
async function told({ problem: said = "", refresh = false, on = "", beside = "", view = "" } = {}) {
  if (said) problem = said;
  if (refresh) await ask();
  if (on || beside) {
    vectors.update();
    for (const v of state.vectors) if (on || v.name === beside) v.on = v.name === (on || beside);
    views.talk.changed();
  }
  if (view) state.view = view;
  keep();
  update();
}

function tryIt(name) {
  const vector = server.vectors.find((v) => v.label === name || v.name === name);
  told({ on: vector ? vector.name : name, view: "talk" });
}

// ------------------------------------------------------------ the loop

/** Ask the server how things are; what was asked before and comes later is not heard. */
async function ask() {
  clearTimeout(asking);
  const number = asked += 1;
  let now;
  try {
    now = { ...(await api.get("/studio/state")), gone: false, locked: false };
  } catch (failed) {
    now = failed.status === 401 ? { locked: true } : { gone: true, ready: false };
  }
  if (number !== asked) return;
  Object.assign(server, now);
  const busy = !server.ready || server.jobs.some((j) => j.state === "running" || j.state === "waiting");
  asking = setTimeout(round, document.hidden ? 10000 : busy ? 700 : 2000);
}

async function round() {
  await ask();
  update();
}

addEventListener("visibilitychange", () => { if (!document.hidden) round(); });
addEventListener("hashchange", () => { // a link that is opened in this tab
  api.takeToken();
  const there = linked();
  if (there) { adopt(there); keep(); }
  round();
});

function update() {
  vectors.update();
  showLight();
  const said = server.gone ? "The server is gone. What you typed and what was said stay here; start it again, and the page goes on." : problem;
  banner.hidden = !said;
  tell(words, said);
  close.hidden = server.gone;
  for (const button of buttons) {
    if (button.dataset.view === state.view) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  if (server.locked) { place([locked ||= lock()]); return; }
  const view = views[state.view];
  place(state.view === "talk" || state.view === "away" ? [vectors.element, view.element] : [view.element]);
  main.className = state.view;
  view.update();
}

function place(wanted) {
  if (wanted.length !== main.children.length || wanted.some((e, k) => main.children[k] !== e)) fill(main, wanted);
}

const sign = h("span", { "aria-hidden": "true" });
fill(status, sign, h("span", {}));

function showLight() {
  const kind = server.gone || server.problem ? "bad" : !server.began ? "" : server.ready ? "good" : "spin";
  if (sign.className !== kind) sign.className = kind;
  tell(sign, kind === "good" || kind === "bad" ? "● " : "");
  tell(status.lastChild, lightWords());
}

function lightWords() {
  if (server.gone) return "no server";
  if (server.problem) return `the model cannot be loaded: ${server.problem}`;
  if (!server.began) return "…";
  if (!server.ready) return ` loading ${server.name}${server.loading ? `, ${lasting(5 * Math.ceil(server.loading / 5))}` : " again"}`;
  const on = state.vectors.filter((v) => v.on && about(v.name)).length;
  return `${server.name}, ${server.model.blocks} blocks · ${on} ${on === 1 ? "vector" : "vectors"} on`;
}

/** A server with a token shows nothing without it. */
function lock() {
  const token = h("input", { type: "password", "aria-label": "Token", autocomplete: "off" });
  return h("form", { class: "card locked", onsubmit: (e) => { e.preventDefault(); api.setToken(token.value); round(); } },
    h("h2", {}, "This studio needs its token"), h("p", {}, "It is TRIMTAB_TOKEN, and stands in the address that the command printed."), token,
    h("button", { type: "submit", class: "primary" }, "Open"));
}

// ------------------------------------------------------------ files that are dropped

const files = (e) => [...(e.dataTransfer?.types || [])].includes("Files");
addEventListener("dragover", (e) => { if (files(e)) { e.preventDefault(); document.body.classList.add("dropping"); } });
addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (e) => {
  if (!files(e)) return; // text that is moved about
  e.preventDefault();
  document.body.classList.remove("dropping");
  take([...e.dataTransfer.files], told);
});

update();
round();
