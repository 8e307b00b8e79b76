// The page in a real Chromium: node page.mjs ADDRESS BASE, where a moewe listens whose model chats, and one
// whose model does not. Every check has a window of its own; none may cause an error in the console or break the page's policy.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { start } from "./fake.mjs";

// The packages lie where they were installed, not beside this file.
const require = createRequire(path.join(process.cwd(), "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [, , real, realBase, only] = process.argv;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
// While one works on the page: PAGE=src/server/page takes the files as they lie there.
const from = process.env.PAGE ? { folder: process.env.PAGE } : { address: real };
const fake = await start(from);
const fakeBase = await start(from, { chat: false });
const scratch = mkdtempSync(path.join(os.tmpdir(), "moewe-page-"));
const PATIENCE = 10_000;

/** A window of its own at an address; what goes wrong in it is noted. */
async function open(address, { locale = "en-GB", ...options } = {}) {
  const context = await browser.newContext({ locale, viewport: { width: 1280, height: 800 }, acceptDownloads: true, ...options });
  const wrong = [];
  const outside = [];
  await context.route("**/*", (route) => {
    if (new URL(route.request().url()).origin === new URL(address).origin) return route.continue();
    outside.push(route.request().url());
    return route.abort();
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => wrong.push(error.stack));
  page.on("console", (line) => {
    // A refusal of the server is the check's own; the browser tells of it as well.
    if (line.type() === "error" && !/^Failed to load resource: (the server responded|net::ERR_(INCOMPLETE|EMPTY|CONNECTION))/.test(line.text())) wrong.push(line.text());
  });
  await page.goto(address);
  await page.waitForSelector("body.met");
  return { page, context, wrong, outside };
}

const idle = (page) => page.waitForFunction(() => !document.querySelector("#send.stopping"));
async function say(page, text) {
  const before = await page.locator(".turn.assistant").count();
  await page.fill("#box", text);
  await page.click("#send");
  await page.waitForFunction((before) => document.querySelectorAll(".turn.assistant").length > before, before);
  await idle(page);
}
const answers = (page) => page.locator(".turn.assistant .answer").allInnerTexts();
const act = (page, turn, label) => page.locator(turn).last().getByRole("button", { name: label, exact: true }).click();
const last = (list) => list.at(-1);
const requests = () => fake.asked;

async function audit(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const bad = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  assert.deepEqual(bad.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.any[0]?.message ?? ""}`).join("\n  ")}`), [], what);
}

const checks = {
  async "an answer streams, with its figures"(page) {
    await page.fill("#box", "Tell me about birds");
    await page.press("#box", "Enter");
    await page.waitForFunction(() => document.querySelector(".answer")?.textContent.length > 10);
    assert.equal(await page.getByRole("button", { name: "Stop" }).count(), 1);
    await idle(page);
    assert.equal(await page.inputValue("#box"), "");
    const answer = page.locator(".answer");
    assert.equal(await answer.locator("table td[align=right]").count(), 3);
    assert.equal(await answer.locator("pre .c-keyword").first().innerText(), "fn");
    assert.match(await page.innerText(".stats"), /126 tokens · 41\.3 tokens\/s · prompt: 256 of 312 from the cache/);
    assert.match(await page.innerText("#composer .figures"), /438 of 8,192/);
    const { stream, messages, stream_options: options, return_progress: progress } = last(requests());
    assert.deepEqual([stream, messages, options, progress], [true, [{ role: "user", content: "Tell me about birds" }], { include_usage: true }, true]);
    assert.equal(await page.title(), "Tell me about birds · Möwe");
  },

  async "an answer is stopped, and gone on with"(page) {
    for (const stop of [() => page.keyboard.press("Escape"), () => page.click("#send")]) {
      await page.fill("#box", "slow");
      await page.press("#box", "Enter");
      await page.waitForFunction(() => document.querySelector(".turn:last-child .answer")?.textContent.length > 30);
      await stop();
      await idle(page);
      assert.match(last(await answers(page)), /^(word )*w?o?r?d?$/);
      assert.equal(await page.innerText(".turn:last-child .cut"), "Stopped.");
    }
    const before = last(await answers(page)).trim();
    await act(page, ".turn.assistant", "Go on");
    await page.waitForFunction(() => document.querySelector(".turn:last-child .answer").textContent.includes("to the end."));
    await idle(page);
    const { messages, continue_final_message: goesOn } = last(requests());
    assert.deepEqual([last(messages).role, goesOn], ["assistant", true]);
    assert.ok(last(await answers(page)).startsWith(before));
    assert.equal(await page.locator(".cut").count(), 0);
  },

  async "a cut answer is gone on with in its place"(page) {
    await say(page, "cut");
    assert.match(await page.innerText(".cut"), /limit of tokens/);
    await act(page, ".turn.assistant", "Go on");
    await page.waitForFunction(() => document.querySelector(".answer").textContent === "It goes on and then it went on to the end.");
    await idle(page);
    assert.equal(await page.locator(".turn").count(), 2);
    assert.equal(await page.getByRole("button", { name: "Go on" }).count(), 0);
  },

  async "another answer stands beside the first"(page) {
    await say(page, "one");
    await act(page, ".turn.assistant", "Answer anew");
    await page.waitForSelector(".branches");
    await idle(page);
    assert.equal(await page.innerText(".branches span"), "2 of 2");
    await act(page, ".turn.assistant", "Earlier version");
    assert.equal(await page.innerText(".branches span"), "1 of 2");
    assert.deepEqual(last(requests()).messages.length, 1);
    await page.reload();
    await page.waitForSelector(".branches");
    assert.equal(await page.innerText(".branches span"), "1 of 2");
  },

  async "both kinds of turns are edited, and nothing is lost"(page) {
    await say(page, "first");
    await say(page, "second");
    await page.press("#box", "ArrowUp");
    assert.equal(await page.inputValue(".edit-box"), "second");
    await page.fill(".edit-box", "other");
    await page.press(".edit-box", "Control+Enter");
    await page.waitForFunction(() => document.querySelector(".turn:last-child .answer")?.textContent === "You said: other");
    await idle(page);
    assert.deepEqual(last(requests()).messages.map(({ content }) => content), ["first", "You said: first", "other"]);
    await act(page, ".turn.user", "Earlier version");
    assert.equal(last(await answers(page)), "You said: second");
    await act(page, ".turn.assistant", "Edit");
    await page.fill(".edit-box", "Not **so**.");
    await page.press(".edit-box", "Control+Enter");
    assert.equal(last(await answers(page)), "Not so.");
    await act(page, ".turn.assistant", "Edit");
    await page.fill(".edit-box", "And now");
    await page.getByRole("button", { name: "Save and let it go on" }).click();
    await page.waitForFunction(() => document.querySelector(".turn:last-child .answer").textContent === "And now then it went on to the end.");
    await idle(page);
    assert.equal(last(last(requests()).messages).content, "And now");
    assert.equal(await page.locator(".turn:last-child .branches span").innerText(), "3 of 3");
    await act(page, ".turn.assistant", "Edit");
    await page.press(".edit-box", "Escape");
    assert.equal(await page.locator(".edit-box").count(), 0);
  },

  async "what is deleted comes back"(page) {
    await say(page, "first");
    await say(page, "second");
    const turns = page.locator(".turn");
    await turns.nth(1).getByRole("button", { name: "Delete", exact: true }).click();
    assert.equal(await turns.count(), 1);
    await page.getByRole("button", { name: "Undo" }).click();
    assert.equal(await turns.count(), 4);
    await act(page, ".turn.assistant", "Delete");
    assert.equal(await turns.count(), 3);
    await page.locator("#toggle-list").focus();
    await page.keyboard.press("Control+z");
    assert.equal(await turns.count(), 4);
    await page.reload();
    await page.waitForSelector(".turn");
    assert.equal(await turns.count(), 4);
  },

  async "answers and code are copied"(page, { context }) {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await say(page, "birds");
    const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
    await page.locator(".copy-code").click();
    assert.match(await clipboard(), /^\/\/\/ How many[\s\S]*counts\n}$/);
    await act(page, ".turn.assistant", "Copy");
    assert.match(await clipboard(), /^Here are \*\*three birds\*\*/);
  },

  async "thoughts are folded, and handed back"(page) {
    await say(page, "think");
    const thoughts = page.locator(".thoughts");
    assert.equal(await thoughts.getAttribute("open"), null);
    assert.equal(await page.locator(".thought-text").isVisible(), false);
    await thoughts.locator("summary").click();
    assert.match(await page.innerText(".thought-text"), /gulls, terns, waders/);
    assert.equal(last(await answers(page)), "Gulls, mostly.");
    await say(page, "go on");
    assert.match(last(requests()).messages[1].reasoning_content, /waders/);
  },

  async "system prompt and sampling are sent"(page) {
    await page.click("#open-settings");
    assert.equal(await page.getAttribute("#s-temperature", "placeholder"), "0.7");
    await page.fill("#prompt", "Answer as a gull.");
    await page.check("#prompt-kept");
    await page.fill("#s-temperature", "0.25");
    await page.fill("#s-top_p", "7");
    await page.fill("#s-stop", "END\nSTOP");
    await page.selectOption("#s-effort", "none");
    await page.keyboard.press("Escape");
    await say(page, "hello");
    const { messages, temperature, top_p: topP, stop, reasoning_effort: effort } = last(requests());
    assert.deepEqual(messages[0], { role: "system", content: "Answer as a gull." });
    assert.deepEqual([temperature, topP, stop, effort], [0.25, undefined, ["END", "STOP"], "none"]);
    await page.click("#new-chat");
    await page.click("#open-settings");
    assert.equal(await page.inputValue("#prompt"), "Answer as a gull.");
    await page.click("#reset-sampling");
    assert.equal(await page.inputValue("#s-temperature"), "");
    assert.match(await page.innerText("#facts"), /Seevogel-30B-A3B[\s\S]*30\.5B[\s\S]*18\.6 GB[\s\S]*8 of 64/);
  },

  async "conversations are kept, found, renamed, deleted, saved and read"(page) {
    await say(page, "think of terns");
    await page.click("#new-chat");
    await say(page, "the weather");
    await page.reload();
    await page.waitForSelector(".turn");
    assert.equal(last(await answers(page)), "You said: the weather");
    const entries = page.locator(".entry");
    assert.deepEqual(await entries.allInnerTexts(), ["the weather", "think of terns"]);
    await page.fill("#search", "MOSTLY");
    assert.deepEqual(await entries.allInnerTexts(), ["think of terns"]);
    await page.fill("#search", "nowhere");
    assert.equal(await page.innerText(".nothing"), "Nothing found.");
    await page.fill("#search", "");
    await page.locator("#list li").nth(1).hover();
    await page.getByRole("button", { name: "Rename: think of terns" }).click();
    await page.fill(".rename", "Terns");
    await page.press(".rename", "Enter");
    assert.deepEqual(await entries.allInnerTexts(), ["the weather", "Terns"]);
    await page.click("#open-settings");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export-all")]);
    const file = path.join(scratch, "all.json");
    await download.saveAs(file);
    const whole = JSON.parse(readFileSync(file, "utf8"));
    assert.deepEqual(whole.conversations.map(({ title }) => title), ["", "Terns"]);
    await page.click("#delete-all");
    assert.equal(await entries.count(), 0);
    await page.click("#open-settings");
    await page.setInputFiles("#import-file", file);
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
    await page.getByRole("button", { name: "Terns", exact: true }).click();
    assert.equal(last(await answers(page)), "Gulls, mostly.");
    await page.locator("#list li.current").hover();
    await page.getByRole("button", { name: "Delete: Terns" }).click();
    await page.waitForFunction(() => ![...document.querySelectorAll(".entry")].some((entry) => entry.textContent === "Terns"));
    await page.getByRole("button", { name: "Undo" }).click();
    await page.waitForFunction(() => document.querySelector(".turn .answer")?.textContent === "Gulls, mostly.");
    // The same file again makes no second copies.
    const count = await entries.count();
    await page.click("#open-settings");
    await page.setInputFiles("#import-file", file);
    await page.waitForFunction(() => document.querySelector(".notice")?.textContent.includes("2 read"));
    assert.equal(await entries.count(), count);
  },

  async "files that are none are refused, and other programs' lists are read"(page) {
    const file = path.join(scratch, "other.json");
    const turn = { id: "a", parent: "nowhere", role: "user", content: "x" };
    for (const text of ["", "{", "[]", "7", "{}", '{"format":"moewe-conversations","conversations":[{"turns":{"a":' + JSON.stringify(turn) + "}}]}", '[{"role":"bird","content":"x"}]']) {
      writeFileSync(file, text);
      await page.setInputFiles("#import-file", file);
      await page.waitForFunction(() => document.querySelector(".notice")?.textContent === "This file holds no conversations.");
      await page.evaluate(() => document.querySelector("#notices").replaceChildren());
    }
    const messages = [{ role: "system", content: "S" }, { role: "user", content: "<b>U</b>" }, { role: "assistant", content: "<img src=x onerror=pwned=1>A" }];
    writeFileSync(file, JSON.stringify({ messages }));
    await page.setInputFiles("#import-file", file);
    await page.waitForSelector(".turn");
    assert.equal(await page.innerText(".said"), "<b>U</b>");
    assert.equal(await page.locator(".answer img").count(), 0);
  },

  async "a long prompt shows how far it is read"(page) {
    await page.fill("#box", "read");
    await page.press("#box", "Enter");
    await page.waitForFunction(() => document.querySelector(".progress span")?.textContent.startsWith("Reading: 2,"));
    assert.ok((await page.locator(".progress progress").evaluate((bar) => bar.value)) > 0.3);
    await idle(page);
    assert.equal(last(await answers(page)), "I have read it.");
    assert.equal(await page.locator(".progress").count(), 0);
  },

  async "errors are said, before and in an answer"(page) {
    for (const [word, text, kept] of [
      ["break", "expert 3 of layer 7 cannot be read", "Then the"],
      ["vanish", "The server cannot be reached, or the connection broke.", "Then the line"],
      ["busy", "the server is busy: its queue is full", ""],
      ["long", "The conversation is longer than the model's context. Start a new one, or delete turns.", ""],
    ]) {
      await say(page, word);
      assert.equal(await page.locator(".turn:last-child .error span").innerText(), text);
      assert.equal((await page.locator(".turn:last-child .answer").textContent()).trim(), kept);
    }
    await page.locator(".turn:last-child .error button").click();
    await idle(page);
    assert.equal(await page.locator(".turn").count(), 8);
  },

  async "a server that wants a key gets it, from this tab only"(page) {
    await say(page, "key");
    await page.waitForSelector("#settings[open]");
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");
    await page.fill("#key", "secret-of-sixteen-letters");
    await page.keyboard.press("Escape");
    await act(page, ".turn.assistant", "Answer anew");
    await page.waitForFunction(() => document.querySelector(".turn:last-child .answer")?.textContent.startsWith("You said"));
    assert.equal(last(requests()).key, "Bearer secret-of-sixteen-letters");
    const [inTab, kept] = await page.evaluate(() => [sessionStorage.getItem("moewe.key"), JSON.stringify(localStorage)]);
    assert.equal(inTab, "secret-of-sixteen-letters");
    assert.ok(!kept.includes("secret"));
  },

  async "a hostile answer does nothing"(page, { outside }) {
    await say(page, "hostile");
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    const answer = page.locator(".answer");
    for (const tag of ["script", "img", "iframe", "style", "form", "base", "svg:not(.icon)", "math", "object", "[style]", "[onclick]", "[onerror]"]) assert.equal(await answer.locator(tag).count(), 0, tag);
    for (const link of await answer.locator("a").all()) {
      assert.match((await link.getAttribute("href")) ?? "https://", /^https?:/);
      assert.deepEqual([await link.getAttribute("rel"), await link.getAttribute("target")], ["noopener noreferrer", "_blank"]);
    }
    assert.match(await answer.innerText(), /<script>window\.pwned = 1<\/script>[\s\S]*The end\./);
    assert.deepEqual(outside, []);
    await page.reload();
    await page.waitForSelector(".answer");
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    assert.deepEqual(outside, []);
  },

  async "the keyboard is enough"(page) {
    await page.focus("#toggle-list");
    await page.keyboard.press("Shift+Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(new URL(page.url()).hash, "");
    await page.keyboard.type("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    assert.equal(await page.inputValue("#box"), "one\ntwo");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".tools");
    await idle(page);
    const seen = [];
    await page.focus(".skip");
    for (let step = 0; step < 40; step += 1) {
      await page.keyboard.press("Tab");
      if (await page.evaluate(() => document.activeElement === document.body)) break; // past the last
      const [id, label, drawn] = await page.evaluate(() => {
        const node = document.activeElement;
        const style = getComputedStyle(node);
        return [node.id, node.getAttribute("aria-label") ?? node.textContent.trim(), node.matches("input, textarea") || style.outlineStyle !== "none"];
      });
      assert.ok(drawn, `${id || label} does not show that it has the focus`);
      seen.push(id || label);
    }
    const order = ["toggle-list", "model-name", "open-experts", "open-settings", "new-chat", "new-text", "search", "one", "Copy", "Edit", "Answer anew", "box"];
    const places = order.map((name) => seen.indexOf(name));
    assert.ok(places.every((place, at) => place >= 0 && (at === 0 || place > places[at - 1])), `${seen}`);
    await page.keyboard.press("Control+Shift+o");
    assert.equal(await page.locator(".turn").count(), 0);
    assert.equal(await page.evaluate(() => document.activeElement.id), "box");
    await page.click("#open-settings");
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement.id), "open-settings");
  },

  async "a link may fill the box but not send"(page, { context }) {
    const before = requests().length;
    const other = await context.newPage();
    await other.goto(`${fake.address}/?q=${encodeURIComponent("Which birds?")}`);
    await other.waitForSelector("body.met");
    await other.waitForTimeout(300);
    assert.equal(await other.inputValue("#box"), "Which birds?");
    assert.equal(requests().length, before);
    assert.equal(new URL(other.url()).search, "");
  },

  async "an answer goes on while another conversation is read"(page) {
    await page.fill("#box", "slow");
    await page.press("#box", "Enter");
    await page.waitForFunction(() => document.querySelector(".answer")?.textContent.length > 10);
    await page.click("#new-chat");
    assert.equal(await page.locator("#send.stopping").count(), 0);
    await say(page, "quick");
    assert.equal(last(await answers(page)), "You said: quick");
    await page.getByRole("button", { name: "slow", exact: true }).click();
    assert.equal(await page.locator("#send.stopping").count(), 1);
    await page.keyboard.press("Escape");
    await idle(page);
    assert.ok(last(await answers(page)).length > 20);
  },

  async "a screen reader is not read every token"(page) {
    await page.evaluate(() => {
      window.said = [];
      new MutationObserver(() => window.said.push(document.getElementById("announcer").textContent)).observe(document.getElementById("announcer"), { childList: true, characterData: true, subtree: true });
    });
    await say(page, "birds");
    const said = await page.evaluate(() => window.said);
    assert.equal(said.length, 2, `${said}`);
    assert.match(said[1], /^The answer: Here are/);
    assert.equal(await page.locator("#thread[aria-live], #thread [aria-live]").count(), 0);
  },

  async "experts are shown while the panel is open, and only then"(page) {
    assert.equal(fake.watchers(), 0);
    await page.click("#open-experts");
    await page.waitForFunction(() => document.querySelector("#heat-figures").textContent.includes("%"));
    assert.equal(fake.watchers(), 1);
    const colours = await page.evaluate(() => {
      const canvas = document.getElementById("heat");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    });
    assert.ok(colours > 20, `${colours}`);
    await page.click("#heat-table summary");
    await page.waitForFunction(() => document.querySelectorAll("#heat-rows tr").length === 24);
    const { x, y } = await page.locator("#heat").boundingBox();
    await page.mouse.move(x + 20, y + 20);
    assert.match(await page.innerText("#heat-at"), /^Layer \d+, expert \d+: used [\d,]+ times/);
    await page.keyboard.press("Escape");
    await page.waitForTimeout(400);
    assert.equal(fake.watchers(), 0);
  },

  async "nothing is wider than a phone of 360 pixels"(page) {
    const wide = () =>
      page.evaluate(() => {
        const limit = document.documentElement.clientWidth;
        const all = [document.documentElement, document.body, ...document.querySelectorAll("#scroller, #settings-body, #experts, #side, #notebook")];
        return all.filter((node) => node.scrollWidth > Math.max(limit, node.clientWidth)).map((node) => `${node.id || node.tagName} ${node.scrollWidth}`);
      });
    await page.setViewportSize({ width: 360, height: 740 });
    assert.deepEqual(await wide(), []);
    await page.fill("#box", `birds ${"Donaudampfschifffahrtsgesellschaft".repeat(4)}`);
    await page.click("#send");
    await page.waitForSelector(".tools");
    await idle(page);
    assert.deepEqual(await wide(), []);
    await page.click("#toggle-list");
    assert.deepEqual(await wide(), []);
    await page.keyboard.press("Escape");
    await page.click("#open-settings");
    assert.deepEqual(await wide(), []);
    await page.keyboard.press("Escape");
    await page.click("#open-experts");
    await page.waitForTimeout(600);
    assert.deepEqual(await wide(), []);
    await page.keyboard.press("Escape");
    await act(page, ".turn.assistant", "Edit");
    assert.deepEqual(await wide(), []);
  },

  async "light, dark, and the person's choice, which is kept"(page) {
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper();
    await page.emulateMedia({ colorScheme: "dark" });
    const dark = await paper();
    assert.notEqual(light, dark);
    await page.click("#open-settings");
    await page.selectOption("#look", "light");
    assert.equal(await paper(), light);
    await page.reload();
    await page.waitForSelector("body.met");
    assert.equal(await paper(), light);
  },

  async "German by the browser's language, English by choice"(page, { context }) {
    await context.close();
    const { page: german, wrong } = await open(fake.address, { locale: "de-DE" });
    assert.equal(await german.getAttribute("html", "lang"), "de");
    assert.equal(await german.getAttribute("#box", "placeholder"), "Schreib an Seevogel-30B-A3B");
    await say(german, "birds");
    assert.match(await german.innerText(".stats"), /126 Token · 41,3 Token\/s/);
    await german.click("#open-settings");
    await german.selectOption("#language", "en");
    assert.equal(await german.innerText("#settings-title"), "Settings");
    await german.reload();
    await german.waitForSelector("body.met");
    assert.equal(await german.getAttribute("html", "lang"), "en");
    assert.deepEqual(wrong, []);
  },

  async "nothing moves where that is asked"(page) {
    await page.emulateMedia({ reducedMotion: "reduce" });
    await page.fill("#box", "slow");
    await page.press("#box", "Enter");
    await page.waitForSelector(".turn.running");
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
    await page.keyboard.press("Escape");
  },

  async "axe finds nothing serious, in any state and look"(page, { context }) {
    for (const colorScheme of ["light", "dark"]) {
      // A thing that is on its way to another colour has none yet.
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.click("#new-chat");
      await audit(page, `empty, ${colorScheme}`);
      await say(page, "think");
      await say(page, "birds");
      await say(page, "break");
      await say(page, "cut");
      await act(page, ".turn.assistant", "Answer anew");
      await page.waitForSelector(".branches");
      await idle(page);
      await page.locator(".thoughts summary").first().click();
      await audit(page, `a conversation, ${colorScheme}`);
      await act(page, ".turn.assistant", "Edit");
      await audit(page, `an edit, ${colorScheme}`);
      await page.press(".edit-box", "Escape");
      await page.click("#open-settings");
      await audit(page, `settings, ${colorScheme}`);
      await page.keyboard.press("Escape");
      await page.click("#open-experts");
      await page.waitForTimeout(600);
      await page.locator("#heat-table").evaluate((table) => (table.open = true));
      await audit(page, `experts, ${colorScheme}`);
      await page.keyboard.press("Escape");
      await page.click("#new-text");
      await audit(page, `a text, ${colorScheme}`);
      await page.setViewportSize({ width: 360, height: 740 });
      await page.click("#toggle-list");
      await audit(page, `a phone's list, ${colorScheme}`);
      await page.keyboard.press("Escape");
      await page.setViewportSize({ width: 1280, height: 800 });
    }
    await context.close();
  },

  async "a base model goes on with a text"(page, { context }) {
    await context.close();
    const { page: text, wrong } = await open(fakeBase.address);
    await text.waitForSelector("#text:visible");
    assert.equal(await text.locator("#composer").isVisible(), false);
    await text.fill("#text", "Once upon a time there was a gull, and then the end.");
    // In the middle: before ", and".
    await text.locator("#text").evaluate((box) => box.setSelectionRange(33, 33));
    await text.press("#text", "Control+Enter");
    const expected = "Once upon a time there was a gull and the sea was calm., and then the end.";
    await text.waitForFunction((expected) => document.getElementById("text").value === expected, expected);
    await text.waitForFunction(() => !document.querySelector("#text-go.stopping"));
    const { url, prompt, max_tokens: most } = last(fakeBase.asked);
    assert.deepEqual([url, prompt, most], ["/v1/completions", "Once upon a time there was a gull", 200]);
    const before = fakeBase.asked.length;
    await text.click("#text-retry");
    await text.waitForFunction(() => !document.querySelector("#text-go.stopping"));
    assert.equal(await text.inputValue("#text"), expected);
    assert.equal(fakeBase.asked.length, before + 1);
    await text.click("#text-undo");
    assert.equal(await text.inputValue("#text"), "Once upon a time there was a gull, and then the end.");
    await text.fill("#text", "slow");
    await text.click("#text-go");
    await text.waitForFunction(() => document.getElementById("text").value.length > 40);
    await text.keyboard.press("Escape");
    await text.waitForFunction(() => !document.querySelector("#text-go.stopping"));
    const stopped = await text.inputValue("#text");
    assert.ok(stopped.length < 2000);
    await text.waitForTimeout(900);
    await text.reload();
    await text.waitForSelector("#text:visible");
    assert.equal(await text.inputValue("#text"), stopped);
    assert.deepEqual(wrong, []);
  },

  async "a real model answers, and its experts are seen"(page, { context }) {
    await context.close();
    const { page: own, wrong } = await open(real);
    await own.click("#open-settings");
    await own.fill("#s-max_tokens", "24");
    await own.keyboard.press("Escape");
    await own.click("#open-experts");
    await say(own, "Wer fliegt über das Meer?");
    assert.equal(await own.locator(".error").count(), 0);
    assert.ok((await own.locator(".answer").textContent()).length > 3);
    assert.match(await own.innerText(".stats"), /\d+ tokens · [\d.,]+ tokens\/s/);
    await own.waitForFunction(() => document.querySelector("#heat-figures").textContent.includes("%"));
    assert.deepEqual(wrong, []);
    const { page: base, wrong: wrongs } = await open(realBase);
    await base.waitForSelector("#text:visible");
    await base.fill("#text", "Die Möwe fliegt");
    await base.click("#text-go");
    await base.waitForFunction(() => document.getElementById("text").value.length > 60);
    await base.keyboard.press("Escape");
    assert.deepEqual(wrongs, []);
  },
};

let run = 0;
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  if (only && !name.includes(only)) continue;
  run += 1;
  const window = await open(fake.address);
  try {
    await check(window.page, window);
    assert.deepEqual(window.wrong, [], "errors in the console");
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack}\n${window.wrong.join("\n")}`);
    if (process.env.PICTURES) await window.page.screenshot({ path: path.join(process.env.PICTURES, `failed-${failed}.png`) }).catch(() => {});
  }
  await window.context.close();
}
await browser.close();
await fake.stop();
await fakeBase.stop();
rmSync(scratch, { recursive: true });
console.log(`${run} checks, ${failed} failed`);
process.exit(failed ? 1 : 0);
