// Learn: from a sentence, from pairs, or from one example; a queue of its own, and what came of it.

import { field, fill, h, keyed, lasting, percent, tell } from "./dom.js";
import * as api from "./server.js";
import { keep, server, state } from "./state.js";

const EXAMPLE = ["What did you do at school today?", "It was wonderful! I cannot wait for tomorrow.", "It was dull, as always."];
const NAMES = ["Prompt", "Answer with the behavior", "Answer without it"];

/** The view. `told` says what is to be known by all; `tryIt` goes to talk with a vector. */
export function learn(told, tryIt) {
  const jobs = h("div", { class: "jobs" }), none = h("p", { class: "empty" }, "Nothing was learned here yet.");
  const element = h("section", { class: "learn", "aria-label": "Learn" },
    h("h2", {}, "Learn a vector here"),
    h("p", { class: "lead" }, "It is learned in a process of its own, and you can go on talking. The result stands in the list of vectors, with its verdict."),
    h("div", { class: "forms" }, sentence(), pairs(), example()), h("h2", {}, "Queue"), none, jobs);
  const aloud = document.getElementById("aloud");

  function card(title, about, time, fields, read) {
    const note = h("p", { class: "note warning", role: "alert" }), button = h("button", { type: "submit", class: "primary" }, "Learn");
    const form = h("form", { class: "card", onsubmit: submit }, h("h3", {}, title), h("p", {}, about), fields, note,
      h("div", { class: "row" }, button, h("small", {}, time)));
    async function submit(e) {
      e.preventDefault();
      button.disabled = true; // once is enough
      note.textContent = "";
      try {
        await api.post("/studio/jobs", read());
        await told({ refresh: true });
        jobs.scrollIntoView({ block: "nearest" });
      } catch (problem) {
        note.textContent = problem.message;
      }
      button.disabled = false;
    }
    return Object.assign(form, { note });
  }

  /** A field whose text is kept for a reload. */
  function kept(name, tag, props) {
    const input = h(tag, { ...props, value: typeof state.forms[name] === "string" ? state.forms[name] : "" });
    input.addEventListener("input", () => { state.forms[name] = input.value; keep(); });
    return input;
  }

  function sentence() {
    const what = kept("what", "input", { type: "text", placeholder: "answers like a cheerful pirate", required: true });
    const against = kept("against", "input", { type: "text", placeholder: "as it is" });
    return card("From a sentence", "The model writes the examples itself, several methods compete, and the best is tried on questions it " +
      "has not seen, beside controls and beside simply asking in words.", "about ten minutes on two cores, for a small model",
    [field("Somebody who …", what), field("instead of somebody who …", against)],
    () => ({ kind: "sentence", sentence: what.value, against: against.value }));
  }

  function pairs() {
    const name = kept("pairs-name", "input", { type: "text", placeholder: "cheerful", required: true });
    const rows = h("div", { class: "pairs" });
    const file = h("input", { type: "file", accept: ".jsonl,.json", class: "hidden", tabindex: -1, "aria-hidden": "true", onchange: read });
    const values = () => [...rows.children].map((r) => [...r.querySelectorAll("textarea")].map((c) => c.value));
    function store() { state.forms.pairs = values(); keep(); }
    function add(texts = ["", "", ""]) {
      const boxes = NAMES.map((text, k) => h("textarea", { rows: 2, "aria-label": text, value: texts[k], oninput: store,
        placeholder: rows.children.length ? text : `${text}: ${EXAMPLE[k]}` }));
      rows.append(h("div", { class: "pair" }, boxes));
    }
    async function read() {
      try {
        const lines = (await file.files[0].text()).split("\n").filter((l) => l.trim()).map((l) => JSON.parse(l));
        const texts = lines.map((p) => [p.prompt, p.positive, p.negative]);
        if (!texts.length || !texts.flat().every((t) => typeof t === "string")) throw new Error("not pairs");
        fill(rows, []);
        texts.forEach(add);
        form.note.textContent = "";
        store();
      } catch {
        form.note.textContent = "Not a file of pairs: one object a line, with prompt, positive and negative.";
      }
      file.value = "";
    }
    const there = Array.isArray(state.forms.pairs) ? state.forms.pairs.filter((p) => Array.isArray(p) && p.length === 3) : [];
    (there.length ? there : [undefined, undefined, undefined]).forEach((p) => add(p));
    const button = (text, act) => h("button", { type: "button", class: "small", onclick: act }, text);
    const form = card("From pairs", "The mean difference of what the model computes on the two answers. Twenty pairs are enough to begin with; from nine " +
      "questions on, a quarter is held out to measure the dose.", "a minute or two", [field("Name", name), rows, h("div", { class: "row" },
      button("Another pair", () => { add(); store(); }), button("One less", () => { rows.lastChild?.remove(); store(); }),
      button("From a .jsonl file", () => file.click()), file)],
    () => ({ kind: "pairs", name: name.value, pairs: values().filter((p) => p.some((t) => t.trim()))
      .map(([prompt, positive, negative]) => ({ prompt, positive, negative })) }));
    return form;
  }

  function example() {
    const name = kept("example-name", "input", { type: "text", placeholder: "pirate", required: true });
    const prompt = kept("prompt", "textarea", { rows: 2, placeholder: "What did you do at school today?", required: true });
    const answer = kept("answer", "textarea", { rows: 2, placeholder: "Arr, matey! I sailed the seven seas", required: true });
    return card("From one example", "Gradient descent on a single prompt, until the model gives this answer there (Dunefsky & Cohan 2025). Its dose is " +
      "measured on prompts that have nothing to do with it.", "a minute or two", [field("Name", name), field("Prompt", prompt), field("Answer", answer)],
    () => ({ kind: "example", name: name.value, prompt: prompt.value, answer: answer.value }));
  }

  function update() {
    none.hidden = server.jobs.length > 0;
    keyed(jobs, server.jobs, (j) => j.name, job);
  }

  function job(first) {
    const stateWord = h("span", { class: "state" }), bar = h("progress", { max: 1, "aria-label": `Progress of ${first.name}` });
    const how = h("p", { class: "hint" }), came = h("ul", {}), path = `/studio/jobs/${encodeURIComponent(first.name)}`;
    const act = (text, go) => h("button", { type: "button", class: "small", "aria-label": `${text}: ${first.name}`, onclick: go }, text);
    const change = (what) => async () => {
      try { await api.post(path, { do: what }); await told({ refresh: true }); } catch (problem) { await told({ problem: problem.message }); }
    };
    const buttons = {
      talk: act("Talk to it", () => tryIt(first.name)),
      report: act("Its evidence", () => { state.run = first.name; told({ view: "evidence" }); }),
      stop: act("Stop", change("stop")), on: act("Go on", change("go on")), forget: act("Take from the list", change("forget")),
    };
    buttons.talk.classList.add("primary");
    const element = h("article", {}, h("header", {}, h("h3", {}, first.name), stateWord), h("p", { class: "hint" }, what(first)), bar, how, came,
      h("p", { class: "buttons" }, Object.values(buttons)));
    let before = first.state;
    function updateJob(j) {
      element.className = `card job ${j.state}`;
      tell(stateWord, j.state);
      const p = j.state === "running" ? j.progress : {}, over = !["waiting", "running"].includes(j.state);
      bar.hidden = how.hidden = j.state !== "running";
      bar.value = p.total ? p.done / p.total : 0;
      const left = p.left ? `, about ${lasting(p.left)} left in this step` : "";
      tell(how, p.stage ? `Step ${p.step} of ${p.steps}: ${p.stage}${p.total ? `, ${percent(p.done / p.total)}` : ""}${left} · ${lasting(p.seconds)} so far` : "begins …");
      if (came.dataset.told !== j.told.join("\n")) { came.dataset.told = j.told.join("\n"); fill(came, j.told.map((t) => h("li", {}, t))); }
      buttons.talk.hidden = !(j.vector && j.state === "done" && j.kind !== "measure");
      buttons.report.hidden = !j.report;
      buttons.stop.hidden = over;
      buttons.on.hidden = !["stopped", "failed"].includes(j.state);
      buttons.forget.hidden = !over;
      if (j.state !== before && over) aloud.textContent = `${j.name}: ${j.state}. ${j.told[0] || ""}`;
      before = j.state;
    }
    return { element, update: updateJob };
  }

  return { element, update };
}

/** What a job learns from, in a line. */
function what(j) {
  if (j.kind === "sentence") return `somebody who ${j.asked.sentence}`;
  if (j.kind === "measure") return `measures ${j.asked.file.split("/").at(-1)} on held-out items of ${j.asked.data}, beside controls`;
  return j.kind === "example" ? `${j.asked.prompt} → ${j.asked.answer}` : `${j.asked.pairs} pairs`;
}
