// Conversations as files of JSON: what goes out comes in again, and what comes in is checked.

import { el, newId } from "./dom.js";
import { ROOT, add, create } from "./conversation.js";

const FORMAT = "moewe-conversations";
const LARGEST = 64 << 20; // bytes

/** Hands a file to the person. */
export function download(conversations, name) {
  const whole = { format: FORMAT, version: 1, exported: new Date().toISOString(), conversations };
  const url = URL.createObjectURL(new Blob([JSON.stringify(whole, null, 1)], { type: "application/json" }));
  const link = el("a", { href: url, download: `${name}.json` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A name for a file, of letters that every system takes. */
export const fileName = (title) => title.normalize("NFC").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 40) || "moewe";

/** The conversations in a file. Throws where it holds none. */
export async function read(file) {
  if (file.size > LARGEST) throw new Error("too large");
  const whole = JSON.parse(await file.text());
  if (whole?.format === FORMAT && Array.isArray(whole.conversations)) return whole.conversations.map(checked);
  // A list of messages, as other programs and `/save` in a terminal write it.
  const list = Array.isArray(whole) ? whole : whole?.messages;
  if (Array.isArray(list)) return [fromMessages(list)];
  throw new Error("no conversations");
}

// Nothing that could be taken for a part of an object's own.
const isId = (value) => typeof value === "string" && /^[a-zA-Z0-9-]{1,64}$/.test(value);
const text = (value) => (typeof value === "string" ? value : "");
const time = (value) => (Number.isFinite(value) ? value : Date.now());

function checked(given) {
  const conversation = { ...create(given.kind === "text" ? "text" : "chat", text(given.system)), id: isId(given.id) ? given.id : newId() };
  Object.assign(conversation, { title: text(given.title), named: given.named === true, text: text(given.text) });
  Object.assign(conversation, { created: time(given.created), changed: time(given.changed) });
  const turns = Object.values(given.turns ?? {}).filter((turn) => isId(turn?.id));
  const ids = new Set(turns.map((turn) => turn.id));
  for (const { id, parent, role, content, reasoning, order, time: when, finish, model, stats, thought } of turns) {
    const isKnown = (parent === ROOT || ids.has(parent)) && parent !== id && ["user", "assistant"].includes(role);
    if (!isKnown) throw new Error("a turn stands nowhere");
    conversation.turns[id] = { id, parent, role, content: text(content), order: time(order), time: time(when) };
    if (text(reasoning)) conversation.turns[id].reasoning = reasoning;
    if (text(finish)) conversation.turns[id].finish = finish;
    if (text(model)) conversation.turns[id].model = model;
    if (Number.isFinite(thought)) conversation.turns[id].thought = thought;
    if (stats && typeof stats === "object") {
      const numbers = Object.entries(stats).filter(([, value]) => Number.isFinite(value));
      conversation.turns[id].stats = Object.fromEntries(numbers);
    }
  }
  for (const [parent, id] of Object.entries(given.chosen ?? {})) {
    if (conversation.turns[id]?.parent === parent) conversation.chosen[parent] = id;
  }
  return conversation;
}

function fromMessages(list) {
  const conversation = create("chat");
  let parent = ROOT;
  for (const message of list) {
    const content = text(message?.content);
    if (message?.role === "system") conversation.system = content;
    else if (["user", "assistant"].includes(message?.role)) {
      const more = { finish: message.role === "assistant" ? "stop" : undefined, reasoning: text(message.reasoning_content) || undefined };
      parent = add(conversation, parent, message.role, content, more).id;
    } else throw new Error("a message has no role");
  }
  if (parent === ROOT) throw new Error("no messages");
  return conversation;
}
