// How the model answers, what it is told first, who asks, and how the page looks. Empty fields take what the file recommends.

import { getKey, setKey } from "./api.js";
import { byId, el } from "./dom.js";
import { bytes, getLanguage, large, number, setLanguage, t } from "./i18n.js";

const KEPT = "moewe.sampling";
const PROMPT = "moewe.prompt";
const LOOK = "moewe.look";
const FIELDS = [
  { name: "temperature", min: 0, max: 5, step: 0.05 },
  { name: "top_p", min: 0.01, max: 1, step: 0.01 },
  { name: "top_k", min: 0, max: 100000, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "typical_p", min: 0.01, max: 1, step: 0.01 },
  { name: "repeat_penalty", min: 0.01, max: 5, step: 0.01 },
  { name: "repeat_last_n", min: -1, max: 1000000, step: 1 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.05 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.05 },
  { name: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, none: "random" },
  { name: "max_tokens", min: 1, max: 10000000, step: 1, none: "unlimited" },
];
const EFFORTS = { "": "effortDefault", none: "effortNone", low: "effortLow", medium: "effortMedium", high: "effortHigh" };

let kept = read();
let hooks;
let model = null;

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** The fields of a request that a person has set. */
export function sampling() {
  const { stop = "", ...fields } = kept;
  const stops = stop.split("\n").filter(Boolean);
  return { ...fields, ...(stops.length ? { stop: stops } : {}) };
}

/** What new conversations begin with. */
export const usualPrompt = () => localStorage.getItem(PROMPT) ?? "";

/** Begins; `hooks` are `conversation()`, `saved()`, `language()` and the acts on all conversations. */
export function start(given) {
  hooks = given;
  const dialog = byId("settings");
  byId("open-settings").addEventListener("click", () => show());
  byId("model-name").addEventListener("click", () => show());
  byId("close-settings").addEventListener("click", () => dialog.close());
  // A click beside the dialog closes it, one in it that ends beside it does not.
  dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close());
  byId("reset-sampling").addEventListener("click", () => (keep({}), fillSampling()));
  byId("prompt").addEventListener("input", () => {
    const conversation = hooks.conversation();
    conversation.system = byId("prompt").value;
    if (byId("prompt-kept").checked) localStorage.setItem(PROMPT, conversation.system);
    hooks.saved(conversation);
  });
  byId("prompt-kept").addEventListener("change", ({ target }) => localStorage.setItem(PROMPT, target.checked ? byId("prompt").value : ""));
  byId("key").addEventListener("input", ({ target }) => setKey(target.value.trim()));
  byId("look").addEventListener("change", ({ target }) => setLook(target.value));
  byId("language").addEventListener("change", ({ target }) => (setLanguage(target.value), fill(), hooks.language()));
  byId("export-all").addEventListener("click", () => hooks.exportAll());
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", ({ target }) => (hooks.importFile(target.files[0]), (target.value = "")));
  byId("delete-all").addEventListener("click", () => (dialog.close(), hooks.deleteAll()));
}

/** Opens the dialog, at the key where that is wanted. */
export function show(at) {
  fill();
  const dialog = byId("settings");
  if (!dialog.open) dialog.showModal();
  if (at === "key") {
    byId("key").scrollIntoView({ block: "center" });
    byId("key").focus();
  } else byId("settings-body").scrollTop = 0;
}

/** What is known of the model. */
export function setModel(known) {
  model = known;
  fill();
}

function setLook(look) {
  if (look === "auto") {
    localStorage.removeItem(LOOK);
    delete document.documentElement.dataset.look;
  } else {
    localStorage.setItem(LOOK, look);
    document.documentElement.dataset.look = look;
  }
  hooks.look();
}

function keep(fields) {
  kept = fields;
  localStorage.setItem(KEPT, JSON.stringify(kept));
}

function set(name, value) {
  const { [name]: _, ...others } = kept;
  keep(value === null ? others : { ...others, [name]: value });
}

function fill() {
  fillFacts();
  fillSampling();
  const conversation = hooks.conversation();
  byId("prompt").value = conversation?.system ?? "";
  byId("prompt").disabled = conversation?.kind === "text";
  byId("prompt-kept").checked = Boolean(usualPrompt()) && usualPrompt() === conversation?.system;
  byId("key").value = getKey();
  byId("look").value = document.documentElement.dataset.look ?? "auto";
  byId("language").value = getLanguage();
}

function fillFacts() {
  const { id, meta } = model ?? {};
  const facts = !meta ? [] : [
    ["name", id],
    ["parameters", large(meta.n_params)],
    ["size", bytes(meta.size)],
    ["architecture", meta.n_expert ? t("ofExperts", { used: meta.n_expert_used, all: meta.n_expert }) : t("noExperts")],
    ["contextSize", t("trained", { used: number(meta.n_ctx), all: number(meta.n_ctx_train) })],
    ["chats", t(meta.chat === false ? "kindBase" : "kindChat")],
  ];
  byId("facts").replaceChildren(...facts.flatMap(([key, value]) => [el("dt", {}, t(key)), el("dd", {}, value)]));
}

function fillSampling() {
  const rows = FIELDS.map(({ name, none, ...range }) => {
    const recommended = model?.meta?.sampling?.[name];
    const hint = none ? t(none) : Number.isFinite(recommended) ? String(recommended) : "";
    const input = el("input", { id: `s-${name}`, type: "number", inputmode: "decimal", placeholder: hint, ...range });
    // What the model recommends need not lie on the steps.
    if (range.step < 1) input.step = "any";
    if (kept[name] !== undefined) input.value = kept[name];
    input.addEventListener("input", () => input.validity.valid && set(name, input.value === "" ? null : Number(input.value)));
    return el("div", { class: "field" }, el("label", { for: input.id }, t(name)), input);
  });
  const effort = el("select", { id: "s-effort" }, ...Object.entries(EFFORTS).map(([value, key]) => el("option", { value }, t(key))));
  effort.value = kept.reasoning_effort ?? "";
  effort.addEventListener("change", () => set("reasoning_effort", effort.value || null));
  const stops = el("textarea", { id: "s-stop", rows: "2", spellcheck: "false" });
  stops.value = kept.stop ?? "";
  stops.addEventListener("input", () => set("stop", stops.value || null));
  byId("sampling").replaceChildren(
    ...rows,
    el("div", { class: "field" }, el("label", { for: effort.id }, t("reasoning_effort")), effort),
    el("div", { class: "field wide" }, el("label", { for: stops.id }, t("stopTexts")), stops),
  );
}
