// A text that the model goes on with, at the cursor: for models that were not made to chat, and for those who write.

import { complete } from "./api.js";
import { byId } from "./dom.js";
import { number, t } from "./i18n.js";
import { announce, notice } from "./notice.js";
import { sampling } from "./settings.js";
import * as store from "./store.js";

const USUAL_TOKENS = 200;
const SAVED_AFTER = 600; // milliseconds
const DRAWN_EVERY = 50;
const MOST_UNDONE = 100;

let conversation = null;
let run = null;
let saving = null;
let hooks;
const undone = new Map(); // by conversation: text and cursor before each time that the model wrote

const box = () => byId("text");

/** Begins; `hooks` are `changed()`, `live(run)` and `key()`. */
export function start(given) {
  hooks = given;
  box().addEventListener("input", () => {
    conversation.text = box().value;
    saveSoon();
    update();
  });
  box().addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    if (!run) goOn();
  });
  byId("text-go").addEventListener("click", () => (run ? stop() : goOn()));
  byId("text-undo").addEventListener("click", undo);
  byId("text-retry").addEventListener("click", () => undo() && goOn());
}

/** Shows a text. */
export function show(next) {
  if (run) stop();
  if (saving) saveNow(conversation);
  conversation = next;
  box().value = next.text;
  box().setSelectionRange(next.text.length, next.text.length);
  box().scrollTop = box().scrollHeight;
  update();
}

export const isWriting = () => run !== null;
export const stop = () => run?.controller.abort();

function saveSoon() {
  clearTimeout(saving);
  saving = setTimeout(saveNow, SAVED_AFTER, conversation);
}

function saveNow(own) {
  clearTimeout(saving);
  saving = null;
  store.save(own).then(hooks.changed);
}

function update() {
  byId("text-go").classList.toggle("stopping", run !== null);
  byId("text-go").lastElementChild.textContent = t(run ? "stop" : "goOnHere");
  byId("text-undo").disabled = byId("text-retry").disabled = run !== null || !undone.get(conversation?.id)?.length;
}

function undo() {
  const before = undone.get(conversation.id)?.pop();
  if (!before || run) return false;
  conversation.text = box().value = before.text;
  box().setSelectionRange(before.at, before.at);
  saveSoon();
  update();
  return true;
}

async function goOn() {
  const own = conversation;
  let at = box().selectionEnd;
  const prompt = box().value.slice(0, at);
  if (!prompt.trim()) return notice(t("writeFirst"));
  const stack = undone.get(own.id) ?? [];
  stack.push({ text: box().value, at });
  if (stack.length > MOST_UNDONE) stack.shift();
  undone.set(own.id, stack);
  const mine = { controller: new AbortController(), tokens: 0, first: 0, speed: 0, progress: null };
  run = mine;
  box().readOnly = true;
  update();
  announce(t("writing"));
  let fresh = "";
  let written = "";
  const put = () => {
    if (!fresh) return;
    const isAtEnd = at === own.text.length;
    own.text = own.text.slice(0, at) + fresh + own.text.slice(at);
    at += fresh.length;
    written += fresh;
    fresh = "";
    if (conversation === own) {
      box().value = own.text;
      box().setSelectionRange(at, at);
      if (isAtEnd) box().scrollTop = box().scrollHeight;
      hooks.live(mine);
    }
  };
  const timer = setInterval(put, DRAWN_EVERY);
  let usage = null;
  try {
    const body = { prompt, max_tokens: USUAL_TOKENS, ...sampling() };
    delete body.reasoning_effort;
    for await (const chunk of complete(body, mine.controller.signal)) {
      if (chunk.prompt_progress) {
        mine.progress = chunk.prompt_progress;
        if (conversation === own) hooks.live(mine);
      }
      const piece = chunk.choices?.[0]?.text;
      if (piece) {
        const now = performance.now();
        mine.progress = null;
        mine.tokens += 1;
        mine.first ||= now;
        if (mine.tokens > 1) mine.speed = ((mine.tokens - 1) * 1000) / Math.max(1, now - mine.first);
        fresh += piece;
      }
      if (chunk.usage) usage = { prompt: chunk.usage.prompt_tokens, tokens: chunk.usage.completion_tokens, speed: chunk.timings?.predicted_per_second };
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      const known = { 0: "errorReach", 401: "errorKey" }[error.status];
      notice(known ? t(known) : error.message);
      if (error.status === 401) hooks.key();
    }
  }
  clearInterval(timer);
  put();
  run = null;
  box().readOnly = false;
  if (!written) stack.pop();
  announce(`${t("written")} ${written}`);
  await store.save(own).catch(() => {});
  if (conversation === own) {
    hooks.live(null, usage);
    box().focus();
  }
  update();
  hooks.changed();
}

/** What a text took, in words. */
export const figures = ({ tokens, speed }) => [t("tokens", { count: number(tokens) }), speed && t("speed", { speed: number(speed, 1) })].filter(Boolean).join(" · ");
