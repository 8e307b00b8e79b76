// A conversation is a tree: every turn knows the one before it, and what is said anew stands beside what was said. Which
// of several is read is `chosen`. Nothing here touches the page or the network.

import { newId } from "./dom.js";

/** What the first turns come after. */
export const ROOT = "";
const LONGEST_TITLE = 60;

/** A new one: `chat` with turns, or `text` for a notebook. */
export function create(kind, system = "") {
  const now = Date.now();
  return { id: newId(), kind, title: "", named: false, created: now, changed: now, system, turns: {}, chosen: {}, text: "" };
}

export const isEmpty = (conversation) =>
  conversation.kind === "text" ? !conversation.text : Object.keys(conversation.turns).length === 0;

/** The turns that were said after one, oldest first. */
export function after(conversation, parent) {
  const turns = Object.values(conversation.turns).filter((turn) => turn.parent === parent);
  return turns.sort((one, other) => one.order - other.order);
}

/** The turns that are read, from the first on. */
export function path(conversation) {
  const turns = [];
  let parent = ROOT;
  for (;;) {
    const next = conversation.turns[conversation.chosen[parent]] ?? after(conversation, parent).at(-1);
    if (!next || next.parent !== parent) return turns;
    turns.push(next);
    parent = next.id;
  }
}

/** Says something after a turn, and reads it from now on. */
export function add(conversation, parent, role, content, more = {}) {
  const orders = Object.values(conversation.turns).map((turn) => turn.order);
  const turn = { id: newId(), parent, role, content, order: Math.max(0, ...orders) + 1, time: Date.now(), ...more };
  conversation.turns[turn.id] = turn;
  conversation.chosen[parent] = turn.id;
  return turn;
}

/** Takes a turn away with all that came after it. */
export function remove(conversation, id) {
  const turn = conversation.turns[id];
  const siblings = after(conversation, turn.parent);
  const at = siblings.indexOf(turn);
  const left = siblings[at - 1] ?? siblings[at + 1];
  if (left) conversation.chosen[turn.parent] = left.id;
  else delete conversation.chosen[turn.parent];
  const gone = [turn];
  while (gone.length) {
    const one = gone.pop();
    gone.push(...after(conversation, one.id));
    delete conversation.turns[one.id];
    delete conversation.chosen[one.id];
  }
}

/** Reads another of the turns that stand beside this one. */
export function choose(conversation, id) {
  conversation.chosen[conversation.turns[id].parent] = id;
}

/** What can be brought back later. */
export const snapshot = ({ turns, chosen, text }) => structuredClone({ turns, chosen, text });

/** What is sent: the system prompt and the turns that are read, up to and with `last`. */
export function messages(conversation, last) {
  const sent = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const { id, role, content, reasoning } of path(conversation)) {
    sent.push({ role, content, ...(reasoning ? { reasoning_content: reasoning } : {}) });
    if (id === last) break;
  }
  return sent;
}

/** The name that it has or goes by. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.kind === "text" ? conversation.text : (path(conversation)[0]?.content ?? "");
  const line = first.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE).trimEnd()}…` : line;
}

/** All that can be searched in it, in lower case. */
export function searchable(conversation) {
  const texts = Object.values(conversation.turns).map((turn) => turn.content);
  return [conversation.title, conversation.text, ...texts].join("\n").toLowerCase();
}
