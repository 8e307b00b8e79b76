// The turns of a conversation on the page, and what a person does with them.

import { answer, runOf, stop } from "./answer.js";
import * as tree from "./conversation.js";
import { byId, mayMove } from "./dom.js";
import { t } from "./i18n.js";
import { announce, notice } from "./notice.js";
import * as store from "./store.js";
import { TurnView } from "./turn.js";

const NEAR_END = 60; // pixels
const DRAWN_EVERY = 50; // milliseconds
const MOST_UNDONE = 50;

let conversation = null;
let views = new Map();
let undone = new Map(); // by conversation: what stood before each change
let follows = true;
let outside; // what the rest of the page is told

const thread = () => byId("thread");
const scroller = () => byId("scroller");

/** Begins; `hooks` are `changed()` after every change, `live(run)` while an answer grows, and `key()` for a key. */
export function start(hooks) {
  outside = hooks;
  scroller().addEventListener("scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = scroller();
    follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    byId("to-end").hidden = follows;
  });
  byId("to-end").addEventListener("click", () => toEnd(true));
}

/** Shows a conversation, or none. */
export function show(next) {
  if (conversation !== next) {
    conversation = next;
    views = new Map();
    thread().replaceChildren();
    follows = true;
  }
  refresh();
  toEnd();
}

export const current = () => conversation;

/** Draws what is there; turns that are shown already stay where they are. */
export function refresh() {
  const turns = conversation ? tree.path(conversation) : [];
  const run = conversation && runOf(conversation.id);
  const shown = new Map();
  turns.forEach((turn, at) => {
    const known = views.get(turn.id);
    const view = known ?? new TurnView(turn, acts);
    view.turn = turn;
    shown.set(turn.id, view);
    if (thread().children[at] !== view.root) thread().insertBefore(view.root, thread().children[at] ?? null);
    const siblings = tree.after(conversation, turn.parent);
    view.show({ run: run?.turn === turn ? run : null, siblings, isLast: at === turns.length - 1 });
  });
  while (thread().children.length > turns.length) thread().lastChild.remove();
  views = shown;
  outside.changed();
}

function toEnd(smoothly = false) {
  follows = true;
  byId("to-end").hidden = true;
  scroller().scrollTo({ top: scroller().scrollHeight, behavior: smoothly && mayMove() ? "smooth" : "instant" });
}

/** Says something at the end, and has it answered. */
export function send(text) {
  remember();
  const last = tree.path(conversation).at(-1);
  respond(tree.add(conversation, last?.id ?? tree.ROOT, "user", text));
  toEnd();
}

/** Edits what the person said last. */
export function editLast() {
  const last = tree.path(conversation).findLast((turn) => turn.role === "user");
  if (last && !runOf(conversation.id)) views.get(last.id)?.edit();
}

export function stopCurrent() {
  if (conversation) stop(conversation.id);
}

/** Takes the last change back. */
export function undo() {
  const before = conversation && undone.get(conversation.id)?.pop();
  if (!before || runOf(conversation.id)) return;
  Object.assign(conversation, before);
  views = new Map();
  thread().replaceChildren();
  refresh();
  store.save(conversation);
}

function remember() {
  const stack = undone.get(conversation.id) ?? [];
  stack.push(tree.snapshot(conversation));
  if (stack.length > MOST_UNDONE) stack.shift();
  undone.set(conversation.id, stack);
}

function respond(user) {
  run(tree.add(conversation, user.id, "assistant", ""));
}

function run(turn, goesOn = false) {
  const own = conversation;
  let drawn = 0;
  let waits = false;
  const draw = (progress) => {
    waits = false;
    drawn = performance.now();
    if (conversation !== own) return;
    views.get(turn.id)?.show({ run: progress, siblings: tree.after(own, turn.parent), isLast: true });
    outside.live(progress);
    if (follows) toEnd();
  };
  const tell = (what, progress) => {
    if (what === "grow") {
      if (waits) return;
      waits = true;
      const wait = Math.max(0, DRAWN_EVERY - (performance.now() - drawn));
      setTimeout(() => waits && draw(progress), wait);
      return;
    }
    waits = false;
    if (conversation === own) refresh();
    if (what === "begin") announce(t("answering"));
    // The whole answer at once: nobody wants to hear every token.
    else announce(turn.error ? turn.error.message : `${t("answered")} ${turn.content}`);
    if (what === "end" && conversation === own && follows) toEnd();
    if (what === "end" && turn.error?.status === 401) outside.key();
    if (conversation !== own) outside.changed();
  };
  answer(own, turn, { goesOn, tell });
  if (follows) toEnd();
}

const acts = {
  /** Another answer beside this one, or in the place of one that failed before it began. */
  again(turn) {
    if (runOf(conversation.id)) return;
    remember();
    const isNothing = turn.error && !turn.content && !turn.reasoning;
    if (isNothing) run(turn);
    else run(tree.add(conversation, turn.parent, "assistant", ""));
  },
  goOn(turn) {
    if (runOf(conversation.id)) return;
    remember();
    run(turn, true);
  },
  editUser(turn, text) {
    if (runOf(conversation.id)) return refresh();
    remember();
    respond(tree.add(conversation, turn.parent, "user", text));
  },
  editAnswer(turn, text) {
    rewrite(turn, text);
  },
  editAndGoOn(turn, text) {
    if (runOf(conversation.id)) return refresh();
    run(rewrite(turn, text), true);
  },
  choose(turn) {
    if (runOf(conversation.id)) return;
    tree.choose(conversation, turn.id);
    refresh();
    store.save(conversation, { touch: false });
  },
  remove(turn) {
    if (runOf(conversation.id)) return;
    remember();
    tree.remove(conversation, turn.id);
    refresh();
    store.save(conversation);
    notice(t("turnDeleted"), undo);
    byId("box").focus();
  },
  refresh,
  key: () => outside.key(),
};

function rewrite(turn, text) {
  remember();
  const { model, reasoning } = turn;
  const edited = tree.add(conversation, turn.parent, "assistant", text, { model, reasoning, finish: "edited" });
  refresh();
  store.save(conversation);
  return edited;
}
