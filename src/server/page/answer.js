// An answer on its way: from the server's chunks to a turn that grows. It goes on where another conversation is looked at.

import { Refused, chat } from "./api.js";
import { messages } from "./conversation.js";
import { sampling } from "./settings.js";
import * as store from "./store.js";

const SAVED_EVERY = 2000; // milliseconds
const FEW = 5; // tokens, whose speed says nothing
const running = new Map();

/** What is under way in a conversation, if anything is. */
export const runOf = (id) => running.get(id);
export const isAnyRunning = () => running.size > 0;

/** Lets the model write a turn of the assistant, or go on with it. `tell` hears of every change. */
export async function answer(conversation, turn, { goesOn = false, tell }) {
  const controller = new AbortController();
  const run = { turn, controller, progress: null, tokens: 0, first: 0, speed: 0, thinking: 0 };
  running.set(conversation.id, run);
  delete turn.error;
  delete turn.finish;
  tell("begin", run);
  let saved = performance.now();
  const save = () => store.save(conversation).catch(() => {});
  save();
  try {
    const sent = messages(conversation, goesOn ? turn.id : turn.parent);
    const body = { messages: sent, ...sampling(), ...(goesOn ? { continue_final_message: true } : {}) };
    for await (const chunk of chat(body, controller.signal)) {
      take(turn, run, chunk);
      tell("grow", run);
      if (performance.now() - saved > SAVED_EVERY) {
        saved = performance.now();
        save();
      }
    }
    turn.finish ??= "stop";
  } catch (error) {
    if (error.name === "AbortError") turn.finish = "stopped";
    else {
      turn.finish = "error";
      turn.error = { status: error instanceof Refused ? error.status : -1, message: error.message, code: error.code ?? null };
    }
  }
  if (run.thinking) turn.thought = performance.now() - run.thinking;
  // Who stopped it hears nothing of what it took.
  if (!turn.stats && run.tokens >= FEW) turn.stats = { tokens: run.tokens, speed: run.speed };
  running.delete(conversation.id);
  save();
  tell("end", run);
}

export const stop = (id) => running.get(id)?.controller.abort();

function take(turn, run, chunk) {
  turn.model = chunk.model ?? turn.model;
  if (chunk.prompt_progress) run.progress = chunk.prompt_progress;
  const choice = chunk.choices?.[0];
  const { content, reasoning_content: reasoning } = choice?.delta ?? {};
  if (content || reasoning) {
    const now = performance.now();
    run.progress = null;
    run.tokens += 1;
    if (run.tokens === 1) run.first = now;
    else if (run.tokens >= FEW) run.speed = ((run.tokens - 1) * 1000) / Math.max(1, now - run.first);
    if (reasoning) {
      run.thinking ||= now;
      turn.reasoning = (turn.reasoning ?? "") + reasoning;
    }
    if (content) {
      if (run.thinking) turn.thought = now - run.thinking;
      run.thinking = 0;
      turn.content += content;
    }
  }
  if (chunk.timings?.predicted_per_second) run.speed = chunk.timings.predicted_per_second;
  if (choice?.finish_reason) turn.finish = choice.finish_reason;
  if (chunk.usage) {
    const { prompt_tokens: prompt, completion_tokens: tokens, prompt_tokens_details: details } = chunk.usage;
    const { predicted_per_second: speed, prompt_per_second: promptSpeed } = chunk.timings ?? {};
    const all = { tokens, speed: speed ?? run.speed, prompt, cached: details?.cached_tokens ?? 0, promptSpeed };
    turn.stats = Object.fromEntries(Object.entries(all).filter(([, value]) => Number.isFinite(value)));
  }
}
