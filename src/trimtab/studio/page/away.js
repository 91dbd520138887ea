// Take away: the same in Python, on the command line, over HTTP; files, a link, a transcript.

import { copier, fill, h } from "./dom.js";
import { about, acting, line, link, parts, server, state } from "./state.js";
import { saveTranscript } from "./talk.js";

const EVERYDAY = "What should I do on a rainy Sunday?";

export function away() {
  const boxes = h("div", { class: "snippets" });
  const element = h("section", { class: "away", "aria-label": "Take away" }, h("h2", {}, "Take it away"),
    h("p", { class: "lead" }, "What you see, for elsewhere. Nothing of it has left this machine."),
    h("p", { class: "buttons" }, copier(link, "Copy a link that holds the whole state"), h("button", { type: "button", class: "small", onclick: saveTranscript }, "Save the transcript (Markdown)")),
    boxes);
  let shown = "";
  function update() {
    const now = JSON.stringify([parts(), state.chat, state.turns.length, state.turns.at(-1)?.user, state.tokens, state.temperature, state.seed, state.system, server.name, server.vectors.map((v) => v.file)]);
    if (now === shown) return;
    shown = now;
    fill(boxes, acting().length ? snippets().map(([name, code, note]) => h("section", { class: "card" },
      h("header", {}, h("h3", {}, name), copier(code, "Copy", `Copy ${name}`)), note && h("p", { class: "hint" }, note), h("pre", { tabindex: 0, role: "region", "aria-label": name }, code))) :
      h("p", { class: "empty" }, "No vector is on. Switch one on, and here stands how to use it elsewhere."));
  }
  return { element, update };
}

/** Every way out, as [name, code, note]. */
export function snippets() {
  return [["Python", python(), alone()], ["Command line", ...commandLine()], ["curl", curl(), alone()], ["vLLM’s own server", ...vllm()], ["Export", ...exports()]];
}

/** Whether a dose or a use is not one that was measured to be fit: a server then wants to hear that it is meant. */
function outside() {
  return acting().some((v) => {
    const { ship } = about(v.name);
    return ship && (v.m < ship[0] || v.m > ship[1] || v.layers || v.operator || v.gate);
  });
}

/** Positions as the library says them: "answer" is a word of the line. */
function spoken(positions) {
  return positions === "answer" ? "from_last_prompt_token" : positions;
}

/** What the prompt of these lines is, where more was said than they repeat. */
function alone() {
  return state.chat && state.turns.length > 1 ? "Of the chat, the last prompt alone." : "";
}

function asked() {
  return state.turns.at(-1)?.user || acting().map((v) => about(v.name).prompts[0]).find((p) => p) || EVERYDAY;
}

function py(value) {
  return typeof value === "string" ? JSON.stringify(value) : JSON.stringify(value).replaceAll("true", "True").replaceAll("false", "False").replaceAll("null", "None");
}

function python() {
  const every = acting();
  const rows = every.map((v) => {
    const more = [`multiplier=${v.m}`, v.layers && `layers=${py(v.layers)}`, v.positions && `positions=${py(spoken(v.positions))}`, v.operator && `operator=${py(v.operator)}`].filter(Boolean);
    return `    Intervention.recommended(SteeringVector.load(${py(about(v.name).file)}), ${more.join(", ")}),`;
  });
  const gates = every.some((v) => v.gate);
  const gated = gates ? every.map((v, k) => v.gate && `stack[${k}] = replace(stack[${k}], gate=registry.make("gate", ${py(v.gate)}))`).filter(Boolean) : [];
  const where = gates ? "from dataclasses import replace\n\nfrom trimtab import LM, Intervention, SteeringVector, registry, steer" : "from trimtab import LM, Intervention, SteeringVector, steer";
  const system = state.system ? `, system=${py(state.system)}` : "";
  return `${where}

lm = LM.load(${py(server.name)}${loading((k, v) => `, ${k}=${py(v)}`)})
stack = [
${rows.join("\n")}
]
${gated.length ? gated.join("\n") + "\n" : ""}with steer(lm, *stack):
    print(lm.generate([${py(asked())}]${system}, max_new_tokens=${state.tokens}, temperature=${state.temperature}, seed=${state.seed})[0])
`;
}

/** How the model was loaded, beside its name. */
function loading(told) {
  return Object.entries(server.loaded || {}).filter(([k]) => k !== "model").map(([k, v]) => told(k, v)).join("");
}

function sh(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function commandLine() {
  const every = acting();
  const how = `-p ${sh(asked())} --max-new-tokens ${state.tokens} --temperature ${state.temperature} --seed ${state.seed} --model ${sh(server.name)}${loading((k, v) => ` --${k} ${sh(v)}`)}`;
  const plain = every.length === 1 && !every[0].gate;
  if (plain) {
    const [v] = every;
    const more = [v.layers && ` --layer ${v.layers[0]}`, v.positions && ` --positions ${sh(spoken(v.positions))}`, v.operator && ` --operator ${v.operator}`].filter(Boolean).join("");
    return [`trimtab steer ${sh(about(v.name).file)} --multiplier=${v.m}${more} ${how}\n`,
      [state.system && "Without the system message, which this command does not take.", alone()].filter(Boolean).join(" ")];
  }
  const said = line();
  if (said === null) return ["# a line cannot say this: layers, operators or gates are others than the files say\n"];
  const files = every.map((v) => `cp ${sh(about(v.name).file)} shelf/${v.name}.safetensors`);
  return [`mkdir -p shelf\n${files.join("\n")}\ntrimtab steer ${sh(said)} --vectors shelf ${how}\n`];
}

function body() {
  const system = state.system ? [{ role: "system", content: state.system }] : [];
  return { messages: [...system, { role: "user", content: asked() }], max_tokens: state.tokens, temperature: state.temperature, seed: state.seed };
}

function curl() {
  const asks = { ...body(), steer: line() ?? parts(), ...(outside() ? { force: true } : {}) };
  const token = server.token ? " -H \"Authorization: Bearer $TRIMTAB_TOKEN\"" : "";
  return `curl ${location.origin}/v1/chat/completions${token} -H 'Content-Type: application/json' -d ${sh(JSON.stringify(asks, null, 1))}\n`;
}

function vllm() {
  const said = line();
  if (said === null) return ["# vLLM takes a line; a line cannot say this: layers, operators or gates are others than the files say\n"];
  const asks = { ...body(), model: server.name, vllm_xargs: { steer: said } };
  return [`curl http://127.0.0.1:8001/v1/chat/completions -H 'Content-Type: application/json' -d ${sh(JSON.stringify(asks, null, 1))}\n`,
    "To a vLLM on port 8001 that was started with VLLM_PLUGINS=trimtab and the folder of these vectors; a dose that is not fit for use needs \"force\": true there."];
}

function exports() {
  const every = acting(), note = [];
  if (every.length > 1) note.push("Each vector for itself; added vectors make one by vector_of(line, folder).");
  if (every.some((v) => v.gate)) note.push("No other engine has gates: without them.");
  const code = every.map((v) => {
    const file = sh(about(v.name).file), m = ` --multiplier=${v.m}`;
    const how = `${v.layers ? ` --layer ${v.layers[0]}` : ""}${v.operator ? ` --operator ${v.operator}` : ""}`;
    const where = v.positions ? ` --positions ${sh(spoken(v.positions))}` : "";
    return `trimtab export gguf ${file} --positions everywhere${m}${how} --to ${v.name}.gguf      # llama.cpp: --control-vector\n` +
      `trimtab export hf ${file} --positions everywhere${m}${how} --to ${v.name}-model     # plain from_pretrained\n` +
      `trimtab export hook ${file}${where}${m}${how} --to ${v.name}-hook   # one short file of Python\n`;
  }).join("");
  note.push("llama.cpp and a checkpoint steer every position; hooks steer where the vector does here.");
  return [code, note.join(" ")];
}
