// Talk: one prompt, or a chat, answered side by side with one seed.

import { field, fill, h, lasting, save, tell } from "./dom.js";
import * as api from "./server.js";
import { about, acting, inWords, keep, PANES, parts, said, server, state, whole } from "./state.js";
import { colored, hide, projections } from "./tokens.js";

const EVERYDAY = ["What should I do on a rainy Sunday?", "How do I bake bread?", "Tell me about the sea."];
const TICKS = 400; // milliseconds
const LONG = 1500; // characters of a prompt that is shown whole
const STEERED = ["steered", "random", "opposite"];
const comparisons = new WeakMap(); // of answers: {key, found}
const running = new Map(); // answers under way, and how to stop them
const earlier = new WeakMap(); // of turns: what panes said before they were asked again

/** The view. `told` is called with what is to be said to everybody. */
export function talk(told) {
  const views = new Map(), inputs = []; // of turns; of settings, with their names
  const color = h("input", { type: "checkbox", onchange: () => { state.color = color.checked; keep(); update(true); settle(); } });
  const draft = h("textarea", { rows: 3, "aria-label": "What to say to the model", placeholder: "Say something to the model …" });
  const send = h("button", { type: "submit", class: "primary" }, "Ask");
  const examples = h("div", { class: "examples" }), kind = h("span", { class: "row choices" });
  const form = h("form", { class: "composer", novalidate: true, onsubmit: (e) => { e.preventDefault(); ask(draft.value); } },
    draft, h("div", { class: "row" }, send, kind, h("button", { type: "button", class: "small", onclick: clear }, "Clear")));
  const switches = h("fieldset", { class: "panes" }, h("legend", {}, "Side by side"));
  const colors = h("p", { class: "hint colors" }, h("span", { class: "token up" }, " likelier "), " or ", h("span", { class: "token down" }, " less likely "),
    " by the vector, token by token: point at one to see what else would have come.");
  const conversation = h("div", { class: "turns", role: "region", "aria-label": "Answers" });
  const element = h("section", { class: "talk", "aria-label": "Talk" }, form, examples, switches, settings(), colors, conversation);
  let comparing = null, wasReady = false, ticked = null;

  draft.addEventListener("input", () => { state.draft = draft.value; keep(); });
  draft.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); ask(draft.value); }
  });
  element.addEventListener("keydown", (e) => { if (e.key === "Escape") stopAll(); });

  // ---------------------------------------------------------- what is asked

  function ask(text) {
    if (!text.trim()) return draft.focus();
    if (state.chat && running.size) return told({ problem: "An answer is under way: wait for it, or stop it (Esc)." });
    stopAll();
    state.turns.push({ user: text, answers: {} });
    state.draft = draft.value = "";
    keep();
    settle();
    return undefined;
  }

  function shown() {
    return Object.keys(PANES).filter((p) => state.panes[p]);
  }

  /** Ask for what the last turn lacks: panes that were never asked, or were asked with other settings. */
  function settle() {
    const turn = state.turns.at(-1);
    update();
    if (!turn || !server.ready) return;
    const stale = shown().filter((p) => turn.answers[p]?.key !== key(turn, p) && !(p === "asked" && !inWords().trim()));
    if (stale.length) answer(turn, stale);
    else compareAll(turn);
  }

  /** Ask for some panes of a turn, at once: they share the passes of the model. */
  function answer(turn, panes) {
    comparing?.abort();
    for (const pane of panes) {
      const before = turn.answers[pane];
      running.get(before)?.abort();
      earlier.set(turn, { ...earlier.get(turn), [pane]: before?.state === "done" ? before : earlier.get(turn)?.[pane] });
      turn.answers[pane] = { text: "", state: "streaming", said: title(pane), key: key(turn, pane), from: Date.now(), problem: "" };
    }
    update();
    Promise.all(panes.map((pane) => one(turn, pane, turn.answers[pane]))).then(() => {
      if (turn === state.turns.at(-1) && !running.size) compareAll(turn);
    });
  }

  async function one(turn, pane, answer) {
    const steering = steeringOf(pane);
    if (steering === null) return end(turn, pane, answer, "none", pane === "asked" ? "Say above how to ask in words." : "No vector is on.");
    const { temperature, seed, tokens } = state, control = new AbortController();
    Object.assign(answer, { steering, settings: { temperature, seed, tokens } });
    running.set(answer, control);
    const body = { messages: messages(turn, pane), max_tokens: tokens, temperature, seed, ...steering };
    try {
      const receipt = await api.stream(body, (piece) => {
        if (!answer.text) answer.first = (Date.now() - answer.from) / 1000;
        answer.text += piece;
        views.get(turn)?.panes[pane]?.grow(answer);
      }, control.signal);
      Object.assign(answer, { receipt: receipt.steering, reason: receipt.reason, count: receipt.usage.completion_tokens });
      end(turn, pane, answer, "done");
    } catch (problem) {
      if (problem.name === "AbortError") end(turn, pane, answer, "cut", "not finished, it was stopped.");
      else end(turn, pane, answer, answer.text ? "cut" : "failed", problem.message);
    }
    return undefined;
  }

  function end(turn, pane, answer, how, problem = "") {
    running.delete(answer);
    const before = earlier.get(turn)?.[pane];
    if (how === "cut" && !answer.text && before && turn.answers[pane] === answer) { // what was said before stays, and says so
      turn.answers[pane] = before;
      views.get(turn)?.panes[pane]?.draw(before);
      return;
    }
    Object.assign(answer, { state: how, problem, seconds: (Date.now() - answer.from) / 1000 });
    keep();
    if (turn.answers[pane] === answer) views.get(turn)?.panes[pane]?.draw(answer);
  }

  /** Compare finished answers with and without their vectors, one after the other: it waits while anybody is answered. */
  async function compareAll(turn) {
    comparing?.abort();
    const mine = comparing = new AbortController();
    for (const pane of state.color ? shown() : []) {
      const answer = turn.answers[pane];
      if (!answer || answer.state !== "done" || !answer.text) continue;
      const steering = STEERED.includes(pane) ? answer.steering : { steer: parts(), force: true };
      const wanted = JSON.stringify(steering);
      if (comparisons.get(answer)?.key === wanted) continue;
      if (!steering.steer.length) comparisons.delete(answer);
      else {
        try {
          const body = { messages: messages(turn, pane), answer: answer.text, ...steering };
          comparisons.set(answer, { key: wanted, found: await api.post("/v1/steering/compare", body, mine.signal) });
        } catch (problem) {
          if (problem.name === "AbortError") return;
          comparisons.set(answer, { key: wanted, found: { problem: problem.message } });
        }
      }
      if (turn.answers[pane] === answer) views.get(turn)?.panes[pane]?.draw(answer);
    }
  }

  function clear() {
    stopAll();
    state.turns = [];
    keep();
    update();
    draft.focus();
  }

  function stopAll() {
    comparing?.abort();
    for (const control of running.values()) control.abort();
    hide();
  }

  // ---------------------------------------------------------- switches and settings

  const radios = [["One prompt", false], ["Chat", true]].map(([words, chat]) => {
    const input = h("input", { type: "radio", name: "chat", onchange: () => { state.chat = chat; keep(); } });
    kind.append(h("label", { class: "choice" }, input, words));
    return [input, chat];
  });
  const boxes = {}, titles = {};
  for (const [pane, name] of Object.entries(PANES)) {
    boxes[pane] = h("input", { type: "checkbox", onchange: () => {
      state.panes[pane] = boxes[pane].checked;
      keep();
      update();
      if (pane === "asked" && boxes[pane].checked && !inWords().trim()) words.focus();
      clearTimeout(ticked);
      ticked = setTimeout(settle, TICKS); // several ticks are one change: panes that are asked together share the passes
    } });
    titles[pane] = h("span", {}, name);
    switches.append(h("label", { class: "choice" }, boxes[pane], titles[pane]));
  }
  const words = h("input", { type: "text", placeholder: "such as: Answer like a cheerful pirate.", onchange: () => {
    Object.assign(state, { ask: words.value, askTyped: words.value.trim() !== "" });
    keep();
    settle();
  } });
  const wordsField = field("In words", words);
  const draw = h("button", { type: "button", class: "small", onclick: () => { state.draw = (state.draw + 1) % 64; keep(); settle(); } }, "Another random vector");
  switches.append(wordsField, draw);

  function settings() {
    const number = (name, text, low, high, step, made) => {
      const input = h("input", { type: "number", min: low, max: high, step, onchange: () => {
        if (input.value !== "") state[name] = made(input.value);
        input.value = state[name];
        keep();
        settle();
      } });
      inputs.push([input, name]);
      return field(text, input);
    };
    const system = h("textarea", { rows: 2, onchange: () => { state.system = system.value; keep(); settle(); } });
    inputs.push([system, "system"]);
    return h("details", {}, h("summary", {}, "Settings"), h("div", { class: "grid" },
      number("tokens", "Longest answer, tokens", 1, 1000, 1, (x) => whole(x, 1, 1000)),
      number("temperature", "Temperature", 0, 3, "any", (x) => Math.max(0, Math.min(3, Number(x) || 0))),
      number("seed", "Seed, of all panes", 0, 1e9, 1, (x) => whole(x, 0, 1e9)),
      h("label", { class: "choice" }, color, "Color tokens by what the vector changed")),
    field("System message", system));
  }

  /** What is typed and switched, as the state has it; nothing under the hands of who types. */
  function show() {
    const put = (input, value) => { if (document.activeElement !== input && input.value !== String(value)) input.value = value; };
    put(draft, state.draft);
    for (const [input, chat] of radios) input.checked = state.chat === chat;
    for (const pane of Object.keys(PANES)) boxes[pane].checked = state.panes[pane];
    for (const [input, name] of inputs) put(input, state[name]);
    color.checked = state.color;
    put(words, inWords());
    wordsField.hidden = !state.panes.asked;
    draw.hidden = !state.panes.random;
    colors.hidden = !state.color || !state.turns.length || !acting().length;
    tell(titles.steered, `Steered (${said()})`);
  }

  // ---------------------------------------------------------- what is shown

  function update(redraw = false) {
    show();
    showExamples();
    if (server.ready && !wasReady && state.turns.length) { wasReady = true; settle(); return; } // it is back, and may have changed
    wasReady = server.ready;
    for (const turn of views.keys()) if (!state.turns.includes(turn)) { views.get(turn).element.remove(); views.delete(turn); }
    for (const turn of state.turns) { // the newest on top, beside what is typed
      if (!views.has(turn)) { views.set(turn, turnView(turn)); conversation.prepend(views.get(turn).element); }
      views.get(turn).update(redraw);
    }
    if (!state.turns.length && !conversation.querySelector(".empty")) conversation.append(welcome());
    if (state.turns.length) conversation.querySelector(".empty")?.remove();
  }

  let shownExamples = "";
  function showExamples() {
    const first = state.vectors.map((v) => v.on && about(v.name)).find((v) => v && v.prompts.length);
    const prompts = first ? first.prompts : EVERYDAY;
    if (shownExamples === prompts.join("\n")) return;
    shownExamples = prompts.join("\n");
    fill(examples, prompts.map((p) => h("button", { type: "button", class: "example", onclick: () => ask(p) }, p)));
  }

  function welcome() {
    return h("div", { class: "empty" }, h("p", {}, h("b", {}, "Ask something, or take one of the prompts above. ")),
      h("p", {}, "The same model answers without the vector and with it, from one seed. Move the slider: green is where the vector " +
        "is fit for use, red is where the text breaks. A random vector of the same length, the opposite sign, and simply asking " +
        "in words are a click away: they tell whether it is the vector that does it."));
  }

  function turnView(turn) {
    const grid = h("div", { class: "grid-panes" }), panes = {}, waits = h("p", { class: "hint" }, "It is answered as soon as the model is there.");
    const text = turn.user.length > LONG
      ? h("details", {}, h("summary", {}, `${turn.user.slice(0, 120)} … (${turn.user.length} characters)`), h("p", { class: "text" }, turn.user))
      : h("p", { class: "text" }, turn.user);
    const element = h("article", { class: "turn" }, h("div", { class: "user" }, h("h3", { class: "hidden" }, "Prompt"), text), waits, grid);
    function updateTurn(redraw) {
      for (const pane of Object.keys(PANES)) {
        const wanted = state.panes[pane] && turn.answers[pane];
        if (wanted && !panes[pane]) { panes[pane] = paneView(turn, pane); place(grid, panes, pane); panes[pane].draw(turn.answers[pane]); }
        else if (!wanted && panes[pane]) { panes[pane].element.remove(); delete panes[pane]; }
        else if (wanted && (redraw || panes[pane].answer() !== turn.answers[pane])) panes[pane].draw(turn.answers[pane]);
        panes[pane]?.last(!state.chat || turn === state.turns.at(-1)); // in a chat later turns stand on it
      }
      waits.hidden = server.ready || Object.keys(panes).length > 0;
    }
    return { element, panes, update: updateTurn };
  }

  function paneView(turn, pane) {
    const head = h("span", {}), body = h("div", { class: "text" }), foot = h("div", { class: "foot" });
    const redo = h("button", { type: "button", class: "small", onclick: act }, "Ask again");
    const element = h("section", { class: `pane ${pane}`, "aria-label": PANES[pane] }, h("header", {}, h("h4", {}, PANES[pane]), head, redo), body, foot);
    let current = null, piece = null;
    function act() {
      if (running.has(current)) running.get(current).abort();
      else if (server.ready) answer(turn, [pane]);
    }
    function grow(answer) {
      if (answer !== current || !piece) return draw(answer);
      piece.data = answer.text;
      body.querySelector(".waiting")?.remove();
      return undefined;
    }
    function draw(answer) {
      current = answer;
      const found = state.color && comparisons.get(answer)?.found, streaming = answer.state === "streaming";
      element.setAttribute("aria-busy", String(streaming));
      element.dataset.state = answer.state;
      tell(head, answer.said || "");
      tell(redo, streaming ? "Stop" : "Ask again");
      redo.setAttribute("aria-label", `${redo.textContent}: ${PANES[pane]}`);
      piece = null;
      if (found && found.tokens) fill(body, colored(found, pane === "random" ? "the random vector" : "the vector"));
      else {
        piece = document.createTextNode(answer.text);
        fill(body, piece, streaming && !answer.text && h("span", { class: "waiting" }, "thinking …"));
      }
      const cut = answer.state === "cut" ? `Cut off${answer.problem ? `: ${answer.problem}` : " by a reload."}` : answer.problem;
      const mild = answer.state === "none" || answer.problem?.startsWith("not finished");
      fill(foot, cut && h("p", { class: mild ? "hint" : "warning" }, cut),
        answer.state === "done" && !answer.text && h("p", { class: "hint" }, "It says nothing."),
        answer.state === "done" && receipt(answer), found && lines(found, pane));
    }
    return { element, draw, grow, answer: () => current, last: (is) => { redo.hidden = !is; } };
  }

  return { element, update, changed: settle };
}

function place(grid, panes, pane) {
  const order = Object.keys(PANES).filter((p) => panes[p]);
  const next = order[order.indexOf(pane) + 1];
  grid.insertBefore(panes[pane].element, next ? panes[next].element : null);
}

/** What a pane adds to the request; null where there is nothing to ask. */
function steeringOf(pane) {
  if (pane === "unsteered") return {};
  if (pane === "asked") return inWords().trim() ? {} : null;
  const steer = parts(pane === "opposite" ? -1 : 1);
  if (!steer.length) return null;
  return { steer, force: true, ...(pane === "random" ? { control: `random-${state.draw}` } : {}) };
}

/** Of all that an answer depends on, in few letters. */
function key(turn, pane) {
  return digest(JSON.stringify([messages(turn, pane), state.tokens, state.temperature, state.seed, steeringOf(pane)]));
}

/** A hash of 53 bits: of settings, not of secrets. */
function digest(text) {
  let a = 0xdeadbeef, b = 0x41c6ce57;
  for (let k = 0; k < text.length; k += 1) {
    a = Math.imul(a ^ text.charCodeAt(k), 2654435761);
    b = Math.imul(b ^ text.charCodeAt(k), 1597334677);
  }
  return (4294967296 * (2097151 & b) + (a >>> 0)).toString(36);
}

function title(pane) {
  if (pane === "steered") return said();
  if (pane === "opposite") return said(-1);
  if (pane === "random") return acting().length ? `as long as ${said()}` : said();
  return pane === "asked" ? `“${inWords()}”` : "";
}

/** The conversation of a pane up to a turn: every pane remembers what it said itself. */
function messages(turn, pane) {
  const system = [state.system, pane === "asked" ? inWords() : ""].filter((t) => t.trim()).join("\n");
  const out = system ? [{ role: "system", content: system }] : [];
  for (const before of state.chat ? state.turns.slice(0, state.turns.indexOf(turn)) : []) {
    const answer = before.answers[pane] || before.answers.unsteered || Object.values(before.answers)[0];
    if (answer?.text) out.push({ role: "user", content: before.user }, { role: "assistant", content: answer.text });
  }
  return [...out, { role: "user", content: turn.user }];
}

/** What was done, as the server counted it. */
function receipt(answer) {
  const edited = Object.entries(answer.receipt?.tokens_edited || {});
  const steered = edited.length ? `${edited.map(([k, n]) => `${n} tokens steered at block ${k}`).join(", ")} · ` : "";
  const cut = answer.reason === "length" ? " · cut at the longest answer" : "";
  return [h("p", { class: "hint" }, `${steered}${answer.count} tokens · first after ${brief(answer.first)}, all in ${brief(answer.seconds)}${cut}`),
    (answer.receipt?.warnings || []).map((t) => h("p", { class: "warning" }, t))];
}

function brief(seconds) {
  return typeof seconds !== "number" ? "–" : seconds < 10 ? `${seconds.toFixed(1)} s` : lasting(seconds);
}

function lines(found, pane) {
  if (found.problem) return h("p", { class: "hint" }, `Not compared: ${found.problem}`);
  const label = (name) => about(name)?.label || name;
  return projections(found, (name) => (pane === "random" ? `the random vector for ${label(name)}` : label(name)));
}

/** What was said, as Markdown. */
export function transcript() {
  const out = [`# ${server.name}, ${new Date().toISOString().slice(0, 10)}`, ""];
  if (state.system) out.push("System:", "", quoted(state.system), "");
  for (const turn of state.turns) {
    out.push("## Prompt", "", quoted(turn.user), "");
    for (const [pane, answer] of Object.entries(turn.answers)) {
      out.push(`### ${PANES[pane]}${answer.said ? ` (${answer.said})` : ""}`, "");
      const how = { ...answer.steering, ...answer.settings };
      if (Object.keys(how).length) out.push(`\`${JSON.stringify(how)}\``, "");
      out.push(quoted(answer.text || answer.problem || ""), "");
    }
  }
  return out.join("\n");
}

function quoted(text) {
  return text.split("\n").map((l) => `> ${l}`).join("\n");
}

export function saveTranscript() {
  save("transcript.md", new Blob([transcript()], { type: "text/markdown" }));
}
