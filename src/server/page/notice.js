// Short news: a line that goes away again, often with a way back, and what a screen reader is told.

import { byId, el } from "./dom.js";
import { t } from "./i18n.js";

const LONG = 8000; // milliseconds
let timer;

/** Shows a line; `undo` takes back what it tells of. */
export function notice(text, undo) {
  const place = byId("notices");
  const close = () => place.replaceChildren();
  const again = undo && el("button", { type: "button", class: "link", onclick: () => (close(), undo()) }, t("undo"));
  place.replaceChildren(el("div", { class: "notice" }, el("span", {}, text), again));
  clearTimeout(timer);
  timer = setTimeout(close, LONG);
}

/** Tells a screen reader, once the line is complete. */
export function announce(text) {
  byId("announcer").textContent = text;
}
