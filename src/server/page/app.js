// Puts the parts of the page together: which conversation is open, what the model is, and the keys that work everywhere.

import * as answers from "./answer.js";
import { model as askModel } from "./api.js";
import * as chat from "./chat.js";
import * as composer from "./composer.js";
import * as tree from "./conversation.js";
import { byId, el } from "./dom.js";
import * as experts from "./experts.js";
import { download, read } from "./files.js";
import { number, t, translate } from "./i18n.js";
import * as notebook from "./notebook.js";
import { notice } from "./notice.js";
import * as settings from "./settings.js";
import * as sidebar from "./sidebar.js";
import * as store from "./store.js";

const AGAIN = 1000; // milliseconds
let current = null;
let model = null;

const name = () => model?.id ?? "Möwe";
const canChat = () => model?.meta?.chat !== false;
const isText = () => current?.kind === "text";

/** Shows a conversation. */
function open(conversation) {
  current = conversation;
  history.replaceState(null, "", location.pathname + (tree.isEmpty(conversation) ? "" : `#${conversation.id}`));
  document.body.classList.toggle("is-text", isText());
  if (isText()) {
    chat.show(null);
    notebook.show(conversation);
  } else chat.show(conversation);
  meter(null);
  changed();
  if (matchMedia("(pointer: fine)").matches) (isText() ? byId("text") : byId("box")).focus();
}

function begin(kind = canChat() ? "chat" : "text") {
  sidebar.closeOverlay();
  if (notebook.isWriting()) notebook.stop();
  open(tree.create(kind, kind === "chat" ? settings.usualPrompt() : ""));
}

/** Something in the conversation is other than before. */
function changed() {
  if (!current) return;
  const title = tree.titleOf(current);
  byId("title").textContent = title;
  document.title = title ? `${title} · Möwe` : "Möwe";
  const isEmpty = tree.isEmpty(current);
  document.body.classList.toggle("is-empty", isEmpty);
  if (!isEmpty && location.hash !== `#${current.id}`) history.replaceState(null, "", `${location.pathname}#${current.id}`);
  composer.setBusy(Boolean(answers.runOf(current.id)));
  if (!isText() && !answers.runOf(current.id)) meter(null);
  sidebar.refresh();
}

/** How much of the context is used, and how fast it goes. */
function meter(run, usage) {
  const last = !isText() && current ? tree.path(current).findLast((turn) => turn.stats?.prompt) : null;
  const known = usage ?? last?.stats;
  const used = (known ? known.prompt + known.tokens : 0) + (run?.tokens ?? 0);
  const all = model?.meta?.n_ctx;
  const words = [];
  if (run?.progress) words.push(t("readingPrompt", { done: number(run.progress.processed), total: number(run.progress.total) }));
  if (run?.speed) words.push(t("speed", { speed: number(run.speed, 1) }));
  else if (usage?.speed) words.push(notebook.figures(usage));
  if (used && all) words.push(t("context", { used: number(used), all: number(all) }));
  for (const place of document.querySelectorAll(".figures")) place.textContent = words.join(" · ");
  for (const bar of document.querySelectorAll(".context-bar")) {
    bar.hidden = !used || !all;
    bar.value = all ? Math.min(1, used / all) : 0;
  }
}

/** Asks for the model until there is one. */
async function meet() {
  const status = byId("status");
  for (;;) {
    try {
      model = await askModel();
      status.hidden = true;
      break;
    } catch (error) {
      status.textContent = error.status === 0 ? t("gone") : error.status === 503 ? t("loading") : error.message;
      status.hidden = false;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
  settings.setModel(model);
  translated();
  byId("open-experts").hidden = !model.meta?.n_expert;
  document.body.classList.add("met");
  document.body.classList.toggle("is-base", !canChat());
  if (!canChat() && current?.kind === "chat" && tree.isEmpty(current)) begin("text");
  meter(null);
}

/** Writes all words anew. */
function translated() {
  translate({ model: name() });
  byId("model-label").textContent = name();
  const { n_expert: all, n_expert_used: used } = model?.meta ?? {};
  byId("greet-facts").textContent = [name(), all && t("facts", { experts: all, used })].filter(Boolean).join(" · ");
  byId("ideas").replaceChildren(
    ...["idea1", "idea2", "idea3"].map((key) => el("button", { type: "button", class: "idea", onclick: () => composer.fill(t(key)) }, t(key))),
  );
  composer.setBusy(Boolean(current && answers.runOf(current.id)));
  if (current && !isText()) {
    chat.show(null);
    chat.show(current);
  }
  experts.refresh();
  changed();
}

async function importFile(file) {
  if (!file) return;
  let conversations;
  try {
    conversations = await read(file);
  } catch {
    return notice(t("notImported"));
  }
  for (const conversation of conversations) {
    // The same one twice is one; another of the same name gets a name of its own.
    const known = store.get(conversation.id);
    if (known && known.changed !== conversation.changed) conversation.id = tree.create("chat").id;
    await store.save(conversation, { touch: false });
  }
  byId("settings").close();
  notice(t("imported", { count: number(conversations.length) }));
  if (conversations[0]) open(conversations[0]);
}

async function deleteAll() {
  const gone = store.all();
  if (current) answers.stop(current.id);
  for (const { id } of gone) await store.forget(id);
  begin();
  notice(t("deletedAll"), async () => {
    for (const conversation of gone) await store.save(conversation, { touch: false });
    sidebar.refresh();
  });
}

function keys(event) {
  const isBox = event.target.matches?.("input, textarea, select");
  if (event.key === "Escape" && !byId("settings").open) {
    if (notebook.isWriting()) notebook.stop();
    else if (current && answers.runOf(current.id)) chat.stopCurrent();
    else if (!sidebar.closeOverlay()) experts.close();
  } else if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    byId("settings").close();
    begin();
  } else if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z" && !isBox && !isText()) {
    event.preventDefault();
    chat.undo();
  }
}

async function start() {
  translate({ model: name() });
  const key = () => settings.show("key");
  settings.start({
    conversation: () => current,
    saved: (conversation) => tree.isEmpty(conversation) || store.save(conversation),
    language: translated,
    look: experts.refresh,
    exportAll: () => download(store.all(), `moewe-${new Date().toISOString().slice(0, 10)}`),
    importFile,
    deleteAll,
  });
  await store.open();
  chat.start({ changed, live: meter, key });
  notebook.start({ changed, live: meter, key });
  composer.start({ send: (text) => chat.send(text), stop: chat.stopCurrent, editLast: chat.editLast });
  const forgot = (id) => {
    answers.stop(id);
    if (current?.id === id) begin();
  };
  sidebar.start({ current: () => current, open, forgot, renamed: changed });
  // Another tab has changed what is open here.
  store.onChange((id) => {
    const theirs = store.get(id);
    const isBusy = answers.runOf(id) || notebook.isWriting() || document.querySelector(".edit-box");
    if (id === current?.id && theirs && theirs !== current && !isBusy) open(theirs);
  });
  experts.start();
  byId("new-chat").addEventListener("click", () => begin());
  byId("new-text").addEventListener("click", () => begin("text"));
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", () => {
    const wanted = store.get(location.hash.slice(1));
    if (wanted && wanted !== current) open(wanted);
  });
  addEventListener("beforeunload", (event) => answers.isAnyRunning() && event.preventDefault());
  const asked = new URLSearchParams(location.search).get("q");
  const known = store.get(location.hash.slice(1));
  if (known) open(known);
  else begin("chat");
  translated();
  // Filled, never sent: whoever made the link is not the person who sits here.
  if (asked) composer.fill(asked);
  if (!store.isLasting()) notice(t("unkept"));
  document.body.classList.add("ready");
  await meet();
}

start();
