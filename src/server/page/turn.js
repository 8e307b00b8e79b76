// One turn as a person sees it: its text, what can be done with it, and the box in which it is edited.

import { copy, el, grow, icon, iconButton } from "./dom.js";
import { number, t } from "./i18n.js";
import { draw } from "./markdown.js";

/** The view of a turn. `acts` are what a person can do; each gets the turn. */
export class TurnView {
  constructor(turn, acts) {
    this.turn = turn;
    this.acts = acts;
    this.isUser = turn.role === "user";
    this.body = el("div", { class: this.isUser ? "said" : "answer" });
    this.foot = el("div", { class: "foot" });
    this.note = el("div", { class: "note" });
    const name = el("h2", { class: "offstage" }, t(this.isUser ? "you" : "model"));
    const mark = this.isUser ? null : el("div", { class: "mark", "aria-hidden": "true" }, icon("gull"));
    this.main = el("div", { class: "turn-main" }, this.body, this.note, this.foot);
    this.root = el("article", { class: `turn ${turn.role}`, "data-id": turn.id }, name, mark, this.main);
    if (!this.isUser) this.main.prepend(this.makeThoughts());
  }

  makeThoughts() {
    this.thoughtText = el("div", { class: "thought-text" });
    this.thoughtLabel = el("span", {});
    this.thoughts = el("details", { class: "thoughts", hidden: true }, el("summary", {}, icon("right"), this.thoughtLabel), this.thoughtText);
    return this.thoughts;
  }

  /** Shows the turn as it is. `run` is there while it is written; `place` is its place among those beside it. */
  show({ run, siblings, isLast }) {
    const { turn } = this;
    this.root.classList.toggle("running", Boolean(run));
    this.root.classList.toggle("last", isLast);
    if (this.isEditing) return;
    if (this.isUser) this.body.textContent = turn.content;
    else this.showAnswer(run);
    if (run) {
      this.foot.replaceChildren();
      return;
    }
    this.foot.replaceChildren(this.makeBranches(siblings), this.makeTools(isLast), this.makeStats());
  }

  showAnswer(run) {
    const { turn } = this;
    this.thoughts.hidden = !turn.reasoning;
    if (turn.reasoning) {
      if (this.shownThoughts !== turn.reasoning) this.thoughtText.textContent = this.shownThoughts = turn.reasoning;
      const seconds = turn.thought >= 100 && number(turn.thought / 1000, 1);
      this.thoughtLabel.textContent = run && !turn.content ? t("thinking") : seconds ? t("thoughtFor", { seconds }) : t("thoughts");
      this.thoughts.classList.toggle("busy", Boolean(run && !turn.content));
    }
    if (this.shown !== turn.content || this.isWhole !== !run) {
      draw(this.body, turn.content, !run);
      this.shown = turn.content;
      this.isWhole = !run;
    }
    this.body.classList.toggle("empty", !turn.content);
    const isReading = run && !turn.content && !turn.reasoning;
    if (isReading) this.note.replaceChildren(this.makeProgress(run));
    else this.note.replaceChildren(...[this.makeError(), this.makeCut(run)].filter(Boolean));
  }

  makeProgress({ progress }) {
    if (!progress?.total || progress.total - progress.cache < 2) return el("span", { class: "waiting", role: "img", "aria-label": t("waiting") }, ...[0, 1, 2].map(() => el("i")));
    const done = Math.min(1, progress.processed / progress.total);
    const label = t("readingPrompt", { done: number(progress.processed), total: number(progress.total) });
    return el("div", { class: "progress" }, el("progress", { max: "1", value: String(done), "aria-label": label }), el("span", {}, label));
  }

  makeError() {
    const { error } = this.turn;
    if (!error) return null;
    const known = { 0: "errorReach", 401: "errorKey" }[error.status] ?? (error.code === "context_length_exceeded" ? "errorLong" : null);
    const text = known ? t(known) : error.message;
    const act = error.status === 401
      ? el("button", { type: "button", class: "link", onclick: () => this.acts.key() }, t("enterKey"))
      : el("button", { type: "button", class: "link", onclick: () => this.acts.again(this.turn) }, t("tryAgain"));
    return el("div", { class: "error", role: "alert" }, el("span", {}, text), act);
  }

  makeCut(run) {
    if (run || this.turn.error) return null;
    const text = { length: "cutLength", stopped: "cutStopped" }[this.turn.finish];
    return text && this.root.classList.contains("last") ? el("p", { class: "cut" }, t(text)) : null;
  }

  makeBranches(siblings) {
    if (siblings.length < 2) return "";
    const at = siblings.findIndex((one) => one.id === this.turn.id);
    const go = (step) => () => this.acts.choose(siblings[at + step]);
    return el(
      "div",
      { class: "branches", role: "group", "aria-label": t("versions") },
      iconButton("left", t("earlier"), go(-1), { disabled: at === 0 }),
      el("span", {}, t("ofVersions", { at: at + 1, count: siblings.length })),
      iconButton("right", t("later"), go(1), { disabled: at === siblings.length - 1 }),
    );
  }

  makeTools(isLast) {
    const { turn, acts } = this;
    const goesOn = !this.isUser && isLast && turn.content && turn.finish !== "stop";
    const copied = async (event) => {
      const button = event.currentTarget;
      if (!(await copy(turn.content))) return;
      button.replaceChildren(icon("check"));
      setTimeout(() => button.replaceChildren(icon("copy")), 1600);
    };
    return el(
      "div",
      { class: "tools" },
      goesOn && el("button", { type: "button", class: "tool worded", onclick: () => acts.goOn(turn) }, icon("play"), t("goOn")),
      turn.content && iconButton("copy", t("copy"), copied),
      iconButton("edit", t("edit"), () => this.edit()),
      !this.isUser && iconButton("again", t("regenerate"), () => acts.again(turn)),
      iconButton("trash", t("delete"), () => acts.remove(turn)),
    );
  }

  makeStats() {
    const { stats } = this.turn;
    if (!stats?.tokens) return "";
    const parts = [t("tokens", { count: number(stats.tokens) })];
    if (stats.speed) parts.push(t("speed", { speed: number(stats.speed, 1) }));
    if (stats.cached) parts.push(t("cached", { cached: number(stats.cached), prompt: number(stats.prompt) }));
    return el("span", { class: "stats" }, parts.join(" · "));
  }

  /** Puts the text into a box. Saved it stands beside the old one; nothing is lost. */
  edit() {
    if (this.isEditing) return;
    this.isEditing = true;
    const box = el("textarea", { class: "edit-box", rows: "1", "aria-label": t(this.isUser ? "editYours" : "editAnswer"), oninput: () => grow(box) });
    box.value = this.turn.content;
    const end = (act) => {
      this.isEditing = false;
      this.main.classList.remove("editing");
      form.remove();
      this.body.hidden = false;
      if (act && box.value.trim()) act(this.turn, box.value);
      else this.acts.refresh(this.turn);
    };
    const main = this.isUser ? this.acts.editUser : this.acts.editAnswer;
    const keys = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        end(main);
      }
    };
    box.addEventListener("keydown", keys);
    const form = el(
      "div",
      { class: "edit" },
      box,
      el(
        "div",
        { class: "edit-tools" },
        el("button", { type: "button", class: "quiet", onclick: () => end() }, t("cancel")),
        !this.isUser && el("button", { type: "button", class: "quiet", onclick: () => end(this.acts.editAndGoOn) }, t("saveAndGoOn")),
        el("button", { type: "button", class: "primary", onclick: () => end(main), title: "Ctrl+Enter" }, t(this.isUser ? "send" : "save")),
      ),
    );
    this.body.hidden = true;
    this.main.classList.add("editing");
    this.foot.replaceChildren();
    this.body.after(form);
    grow(box);
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
}
