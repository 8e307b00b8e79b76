// From Markdown to elements. A model writes what it likes: raw HTML in it is text, pictures are links, and what is left goes
// through DOMPurify. While an answer streams only what changed is made anew.

import { Marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js";
import { coloured } from "./colours.js";
import { copy, el, icon } from "./dom.js";
import { t } from "./i18n.js";

const LONGEST_COLOURED = 50_000; // characters

// A script of its own kind, which puts its one name into the window.
const purify = globalThis.DOMPurify;
const ALLOWED = {
  ALLOWED_TAGS: [
    ..."h1 h2 h3 h4 h5 h6 p br hr ul ol li blockquote pre code span strong em del a".split(" "),
    ..."table thead tbody tr th td input".split(" "),
  ],
  ALLOWED_ATTR: ["href", "title", "class", "align", "start", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  // Their values are no addresses.
  ADD_URI_SAFE_ATTR: ["align", "start", "type", "checked", "disabled"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
});

const escaped = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
  },
});

/** What was drawn into an element, block by block. */
const drawn = new WeakMap();

/** Draws a text into an element. `isWhole` says that no more will come. */
export function draw(into, text, isWhole) {
  const tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  const blocks = drawn.get(into) ?? [];
  const same = (block, token, isLast) => block && block.raw === token.raw && block.isDone >= (isWhole || !isLast);
  tokens.forEach((token, at) => {
    const isLast = at === tokens.length - 1;
    if (same(blocks[at], token, isLast)) return;
    const isDone = isWhole || !isLast;
    const nodes = elements(token, isDone);
    blocks[at]?.nodes.slice(1).forEach((node) => node.remove());
    if (blocks[at]) blocks[at].nodes[0].replaceWith(...nodes);
    else into.append(...nodes);
    blocks[at] = { raw: token.raw, isDone, nodes };
  });
  blocks.splice(tokens.length).forEach((block) => block.nodes.forEach((node) => node.remove()));
  drawn.set(into, blocks);
}

function elements(token, isDone) {
  const fragment = purify.sanitize(marked.parser([token]), ALLOWED);
  fragment.querySelectorAll("pre").forEach((pre) => pre.replaceWith(codeBlock(pre, isDone)));
  fragment.querySelectorAll("table").forEach((table) => {
    const frame = el("div", { class: "table", tabindex: "0", role: "region", "aria-label": t("table") });
    table.replaceWith(frame);
    frame.append(table);
  });
  fragment.querySelectorAll("input").forEach((box) => {
    box.disabled = true;
    box.setAttribute("aria-label", box.checked ? t("checked") : t("unchecked"));
  });
  const nodes = [...fragment.childNodes].filter((node) => node.nodeType === 1 || node.textContent.trim());
  return nodes.length ? nodes : [document.createTextNode("")];
}

function codeBlock(pre, isDone) {
  const text = pre.textContent;
  const name = /language-([\w+#-]+)/.exec(pre.querySelector("code")?.className ?? "")?.[1] ?? "";
  const code = el("code", {}, text);
  const pieces = isDone && name && text.length < LONGEST_COLOURED && coloured(text, name);
  if (pieces) code.replaceChildren(...pieces);
  const button = el("button", { type: "button", class: "tool copy-code" }, icon("copy"), el("span", {}, t("copy")));
  button.addEventListener("click", async () => {
    if (!(await copy(text.replace(/\n$/, "")))) return;
    button.replaceChildren(icon("check"), el("span", {}, t("copied")));
    setTimeout(() => button.replaceChildren(icon("copy"), el("span", {}, t("copy"))), 1600);
  });
  const head = el("div", { class: "code-head" }, el("span", {}, name || t("code")), button);
  return el("div", { class: "code" }, head, el("pre", { tabindex: "0", role: "region", "aria-label": name || t("code") }, code));
}
