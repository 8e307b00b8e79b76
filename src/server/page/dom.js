// Elements, made without markup in strings: what a model or a person writes never becomes markup by accident.

/** The element of this page with an id. */
export const byId = (id) => document.getElementById(id);

/** An element. Keys that begin with `on` are listeners; `null`, `undefined` and `false` leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the drawings at the end of index.html. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows a drawing and says what it does. */
export function iconButton(name, label, action, attributes = {}) {
  return el("button", { type: "button", class: "tool", "aria-label": label, title: label, onclick: action, ...attributes }, icon(name));
}

/** Whether things may move. */
export const mayMove = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Copies a text, also where the page came over plain HTTP from another machine, which has no clipboard by name. */
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not allowed: the old way may be.
    }
  }
  const box = el("textarea", { class: "offstage", readonly: true, "aria-hidden": "true" });
  box.value = text;
  const focused = document.activeElement;
  document.body.append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  focused?.focus?.();
  return done;
}

/** An id that nobody else has. `crypto.randomUUID` is missing over plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Lets a box be as high as its text, where the browser does not do so itself. */
export function grow(box) {
  if (CSS.supports("field-sizing", "content")) return;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}
