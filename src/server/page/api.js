// What the server is asked. The key lives as long as this tab.

const KEY = "moewe.key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/** The server said no, in the stream or before it. A status of 0 means that it was not reached. */
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
    this.kind = error?.type ?? null;
  }
}

async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (getKey()) headers.authorization = `Bearer ${getKey()}`;
  if (body) headers["content-type"] = "application/json";
  const request = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: error.message });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, said.error);
}

/** The model with what is known of it. */
export async function model() {
  const { data } = await (await ask("v1/models")).json();
  return data[0];
}

/** Chunks of an answer in a conversation. */
export const chat = (body, signal) => events("v1/chat/completions", { body: streamed(body), signal });

/** Chunks of a text's continuation. */
export const complete = (body, signal) => events("v1/completions", { body: streamed(body), signal });

/** Which experts are used, as it happens. */
export const experts = (signal) => events("v1/moewe/experts", { signal, lasts: true });

function streamed(body) {
  return { ...body, stream: true, stream_options: { include_usage: true }, return_progress: true };
}

/** Server-sent events. A stream that ends without saying so was cut off, unless it `lasts`. */
async function* events(path, { body, signal, lasts = false }) {
  const answer = await ask(path, { body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Refused(0, { message: error.message });
      }
      if (piece.done) break;
      const parts = (rest + piece.value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (!data) continue;
        const event = JSON.parse(data);
        if (event.error) throw new Refused(200, event.error);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!lasts) throw new Refused(0, { message: "the stream ended early" });
}
