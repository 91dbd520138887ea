// Elements. Text is always put in as text: nothing that comes from a model, a file or a person is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("p", {class: "sub", onclick: f}, "text", h("b", {}, "bold")). What is null or false is left out. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same for a picture. */
export function s(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && (name === "value" || name === "checked" || name === "indeterminate")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** Put other children into an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** A label around a field. */
export function field(text, ...inputs) {
  return h("label", { class: "field" }, h("span", {}, text), inputs);
}

/** Put a text into an element, if it is another one: what is read aloud is not read again. */
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** One element for each of some things, by their names: those that stay are updated and keep what is typed into them. */
export function keyed(parent, things, name, make) {
  const held = new Map([...parent.children].map((e) => [e.dataset.key, e]));
  let before = null;
  for (const thing of things) {
    let element = held.get(name(thing));
    if (!element) {
      const made = make(thing);
      element = made.element;
      element.dataset.key = name(thing);
      element.update = made.update;
    }
    held.delete(name(thing));
    const next = before ? before.nextSibling : parent.firstChild;
    if (next !== element) parent.insertBefore(element, next);
    element.update(thing);
    before = element;
  }
  for (const element of held.values()) element.remove();
}

/** A number in few digits. */
export function digits(x, n = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x === 0) return "0";
  return String(Number(x.toPrecision(n)));
}

export function signed(x, n = 2) {
  return x === null || x === undefined ? "–" : (x > 0 ? "+" : "") + digits(x, n);
}

export function percent(x) {
  return x === null || x === undefined ? "–" : `${Math.round(100 * x)} %`;
}

/** How long, in words. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${digits(seconds / 3600, 2)} h`;
}

/** Give a browser a file to save. */
export function save(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** A button that copies a text and says so. */
export function copier(text, label = "Copy", what = label) {
  const button = h("button", { type: "button", class: "small", "aria-label": what, onclick: copy }, label);
  async function copy() {
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed: select and copy";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  }
  return button;
}
