// The list of conversations: by day, searched, renamed, saved as a file, deleted and brought back.

import { runOf } from "./answer.js";
import { isEmpty, searchable, titleOf } from "./conversation.js";
import { byId, el, icon, iconButton } from "./dom.js";
import { download, fileName } from "./files.js";
import { t } from "./i18n.js";
import { notice } from "./notice.js";
import * as store from "./store.js";

const DAY = 86_400_000; // milliseconds
let hooks;
let renaming = null;

/** Begins; `hooks` are `current()`, `open(conversation)` and `forgot(id)`. */
export function start(given) {
  hooks = given;
  byId("search").addEventListener("input", refresh);
  store.onChange(refresh);
  const toggle = (open) => {
    document.body.classList.toggle("with-list", open);
    document.body.classList.toggle("without-list", !open);
    byId("toggle-list").setAttribute("aria-expanded", String(open));
    if (open) byId("search").focus();
  };
  byId("toggle-list").addEventListener("click", () => toggle(!isOpen()));
  byId("shade").addEventListener("click", () => toggle(false));
  byId("toggle-list").setAttribute("aria-expanded", String(isOpen()));
}

const isNarrow = () => matchMedia("(max-width: 52rem)").matches;
const isOpen = () => (isNarrow() ? document.body.classList.contains("with-list") : !document.body.classList.contains("without-list"));

/** On a small screen the list lies over the conversation. Says whether it was open. */
export function closeOverlay() {
  if (!isNarrow() || !isOpen()) return false;
  document.body.classList.remove("with-list");
  byId("toggle-list").setAttribute("aria-expanded", "false");
  return true;
}

/** Draws the list. */
export function refresh() {
  if (renaming) return;
  const wanted = byId("search").value.trim().toLowerCase();
  const kept = store.all().filter((conversation) => !isEmpty(conversation) || conversation.id === hooks.current()?.id);
  const found = kept.filter((conversation) => !wanted || searchable(conversation).includes(wanted));
  const groups = Map.groupBy ? Map.groupBy(found, (one) => age(one.changed)) : grouped(found);
  const sections = [...groups].map(([key, some]) =>
    el("section", {}, el("h3", {}, t(key)), el("ul", { class: "entries" }, ...some.map(entry))),
  );
  const nothing = el("p", { class: "nothing" }, t(wanted ? "noneFound" : "noneYet"));
  // Whoever stands on an entry goes on standing there.
  const focused = document.activeElement?.closest?.("#list li");
  const place = focused && [focused.dataset.id, [...focused.querySelectorAll("button")].indexOf(document.activeElement)];
  byId("list").replaceChildren(...(sections.length ? sections : [nothing]));
  if (place) byId("list").querySelector(`li[data-id="${CSS.escape(place[0])}"]`)?.querySelectorAll("button")[place[1]]?.focus();
}

function grouped(list) {
  const groups = new Map();
  for (const one of list) groups.set(age(one.changed), [...(groups.get(age(one.changed)) ?? []), one]);
  return groups;
}

function age(time) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) - time) / DAY);
  return days < 1 ? "today" : days < 2 ? "yesterday" : days < 7 ? "week" : "before";
}

function entry(conversation) {
  const isCurrent = conversation.id === hooks.current()?.id;
  const title = titleOf(conversation) || t("untitled");
  const open = el(
    "button",
    { type: "button", class: "entry", title, "aria-current": isCurrent ? "page" : null, onclick: () => (closeOverlay(), hooks.open(conversation)) },
    icon(conversation.kind === "text" ? "text" : "chat"),
    el("span", {}, title),
    runOf(conversation.id) && el("i", { class: "busy-dot" }),
  );
  const tools = el(
    "div",
    { class: "entry-tools" },
    iconButton("edit", `${t("rename")}: ${title}`, () => rename(conversation)),
    iconButton("download", `${t("exportOne")}: ${title}`, () => download([conversation], fileName(title))),
    iconButton("trash", `${t("delete")}: ${title}`, () => remove(conversation, title)),
  );
  return el("li", { "data-id": conversation.id, class: isCurrent ? "current" : null }, open, tools);
}

function rename(conversation) {
  const item = byId("list").querySelector(`li[data-id="${CSS.escape(conversation.id)}"]`);
  const box = el("input", { class: "rename", "aria-label": t("title"), maxlength: "200" });
  box.value = titleOf(conversation);
  renaming = conversation.id;
  const end = (keeps) => {
    if (!renaming) return;
    renaming = null;
    if (keeps && box.value.trim()) {
      Object.assign(conversation, { title: box.value.trim(), named: true });
      store.save(conversation, { touch: false });
      hooks.renamed();
    }
    refresh();
    byId("list").querySelector(`li[data-id="${CSS.escape(conversation.id)}"] .entry`)?.focus();
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") (event.stopPropagation(), end(false));
  });
  box.addEventListener("blur", () => end(true));
  item.replaceChildren(box);
  box.select();
}

async function remove(conversation, title) {
  hooks.forgot(conversation.id);
  await store.forget(conversation.id);
  notice(t("deleted", { title }), async () => {
    await store.save(conversation, { touch: false });
    hooks.open(conversation);
  });
}
