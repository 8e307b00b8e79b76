// The box at the bottom: what is written in it is sent, or the answer is stopped.

import { byId, grow, icon } from "./dom.js";
import { t } from "./i18n.js";

const isTouch = () => matchMedia("(pointer: coarse)").matches;
let isBusy = false;

/** Begins; `hooks` are `send(text)`, `stop()` and `editLast()`. */
export function start({ send, stop, editLast }) {
  const box = byId("box");
  const submit = () => {
    if (isBusy) return stop();
    const text = box.value.trim();
    if (!text) return;
    box.value = "";
    update();
    send(text);
  };
  box.addEventListener("input", update);
  box.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    // On a phone the key for a new line is a new line; there is a button to send.
    if (event.key === "Enter" && !event.shiftKey && !isTouch()) {
      event.preventDefault();
      if (!isBusy) submit();
    } else if (event.key === "ArrowUp" && !box.value) {
      event.preventDefault();
      editLast();
    }
  });
  byId("send").addEventListener("click", submit);
  update();
}

/** Fills the box without sending. */
export function fill(text) {
  byId("box").value = text;
  update();
  byId("box").focus();
}

/** Whether an answer is under way, so that the button stops it. */
export function setBusy(busy) {
  isBusy = busy;
  update();
}

function update() {
  const button = byId("send");
  const label = t(isBusy ? "stop" : "send");
  button.classList.toggle("stopping", isBusy);
  button.replaceChildren(icon(isBusy ? "stop" : "send"));
  button.setAttribute("aria-label", label);
  button.title = isBusy ? `${label} (Esc)` : label;
  button.disabled = !isBusy && !byId("box").value.trim();
  grow(byId("box"));
}
