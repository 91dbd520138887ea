// The server: what is asked of it, and how its answers and its errors arrive.

const KEY = "trimtab-token";

/** An answer that is an error of the server's, in its words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The server did not answer at all. */
export class Gone extends Error {}

/** The token stands behind the # of the address that the command prints. It is kept for this tab, and shown no longer. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname);
}
takeToken();

export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

async function call(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...(options.headers || {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Gone("The server does not answer.");
  }
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server says ${response.status}.`;
  }
}

export async function get(path) {
  return (await call(path)).json();
}

export async function text(path) {
  return (await call(path)).text();
}

export async function blob(path) {
  return (await call(path)).blob();
}

export async function post(path, body, signal) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  return (await call(path, options)).json();
}

export async function upload(path, file) {
  return (await call(path, { method: "POST", body: file })).json();
}

export async function remove(path) {
  return (await call(path, { method: "DELETE" })).json();
}

/** Ask for an answer, piece by piece: on(text) for every piece; the receipt of the end is returned. */
export async function stream(body, on, signal) {
  const options = {
    method: "POST", headers: { "Content-Type": "application/json" }, signal,
    body: JSON.stringify({ ...body, stream: true }),
  };
  const response = await call("/v1/chat/completions", options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = null;
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Gone("The server is gone in the middle of the answer.");
    }
    if (step.done) break;
    const lines = (rest + step.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return last;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Refused(event.error.code, event.error.message);
      if (event.choices[0].delta.content) on(event.choices[0].delta.content);
      if (event.usage) last = { usage: event.usage, steering: event.steering, reason: event.choices[0].finish_reason };
    }
  }
  throw new Gone("The server is gone in the middle of the answer.");
}
