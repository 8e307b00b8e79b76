// A server that answers as it is told: the page's own files come from a real moewe, answers from the scripts below. So
// every shape of an answer is seen, the hostile ones too.
//
//   node fake.mjs http://127.0.0.1:PORT     prints its own address; with --files FOLDER the page comes from a folder

import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const META = {
  n_vocab: 32000, n_ctx: 8192, n_ctx_train: 32768, n_params: 30.5e9, size: 18.6e9, n_expert: 64, n_expert_used: 8, format: "gguf", chat: true,
  sampling: { temperature: 0.7, top_k: 20, top_p: 0.8, min_p: 0, typical_p: 1, repeat_penalty: 1, repeat_last_n: 64, presence_penalty: 0, frequency_penalty: 0 },
};

const BIRDS = `Here are **three birds** of the shore, with what tells them apart:

| Bird | Wingspan | Calls |
|---|---:|---|
| Herring gull | 140 cm | *kyow*, loud and laughing |
| Black-headed gull | 100 cm | harsh *kree-ar* |
| Common tern | 85 cm | *kierri-kierri* |

A short program that counts them:

\`\`\`rust
/// How many birds of each kind were seen.
fn tally(seen: &[Bird]) -> HashMap<Kind, usize> {
    let mut counts = HashMap::new();
    for bird in seen {
        *counts.entry(bird.kind).or_insert(0) += 1; // one more
    }
    counts
}
\`\`\`

1. Look at the **legs**: pink, red or short and scarlet.
2. Then at the tail: only terns have a *fork*.
   - A tern dives head first.
   - A gull never does.

> Gulls live for thirty years and remember who fed them.`;

const HOSTILE = `Hello <script>window.pwned = 1</script> <img src=x onerror="window.pwned = 2"> ![p](https://evil.example/p.png?leak)
![d](javascript:window.pwned=3) [a](javascript:window.pwned=4) [b](https://evil.example/) [c](data:text/html,<script>window.pwned=5</script>)

<style>body { display: none }</style><div style="position:fixed;inset:0" onclick="window.pwned=6">over all</div>
<iframe src="https://evil.example/"></iframe><base href="https://evil.example/"><form action="https://evil.example/"><input name=q></form>
<svg onload="window.pwned=7"><a xlink:href="javascript:window.pwned=8"><text>x</text></a></svg><math><mtext><table><mglyph><style><img src=x onerror=window.pwned=9>

\`\`\`html"><img src=x onerror=window.pwned=10>
<script>window.pwned = 11</script>
\`\`\`

| <img src=x onerror=window.pwned=12> | b |
|---|---|
| [x](  javascript:window.pwned=13) | <https://evil.example/> |

The end.`;

const thought = "The person asks about birds.\nI know a few: gulls, terns, waders.\n";
const text = (content) => [...content.matchAll(/[\s\S]{1,6}/gu)].map(([piece]) => ({ content: piece }));

/** What is answered, by a word in the last message. */
const SCRIPTS = {
  birds: { pieces: text(BIRDS) },
  think: { pieces: [...[...thought.matchAll(/\S+\s*/g)].map(([piece]) => ({ reasoning_content: piece })), ...text("Gulls, mostly.")] },
  hostile: { pieces: text(HOSTILE) },
  slow: { pieces: text("word ".repeat(400)), pause: 20 },
  cut: { pieces: text("It goes on and"), reason: "length" },
  read: { pieces: text("I have read it."), reads: 12 },
  break: { pieces: text("Then the"), error: { message: "expert 3 of layer 7 cannot be read", type: "server_error", param: null, code: null } },
  vanish: { pieces: text("Then the line"), vanishes: true },
  key: { status: 401, error: { message: "the API key is missing or wrong", type: "authentication_error", code: "invalid_api_key" } },
  long: { status: 400, error: { message: "the prompt has 9000 tokens", type: "exceed_context_size_error", code: "context_length_exceeded" } },
  busy: { status: 503, error: { message: "the server is busy: its queue is full", type: "unavailable_error", code: null } },
};

/** Requests that came, for the test to look at. */
const asked = [];
let watchers = 0;

async function body(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces).toString() || "{}");
}

function refuse(response, status, error) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ error }));
}

async function answer(request, response, isChat) {
  const wanted = await body(request);
  asked.push({ url: request.url, key: request.headers.authorization ?? null, ...wanted });
  const last = isChat ? wanted.messages.at(-1) : { content: wanted.prompt };
  const goesOn = isChat && last.role === "assistant";
  const word = Object.keys(SCRIPTS).find((word) => last.content.toLowerCase().split(/\W+/).includes(word));
  const usual = { pieces: text(goesOn ? " then it went on to the end." : isChat ? `You said: ${last.content}` : " and the sea was calm.") };
  const script = SCRIPTS[goesOn ? "" : word] ?? usual;
  if (script.status && !(script.status === 401 && request.headers.authorization)) return refuse(response, script.status, script.error);
  const { pieces, reason = "stop", pause = 2, reads = 0, error, vanishes } = { ...usual, ...script, pieces: script.pieces ?? usual.pieces };
  response.writeHead(200, { "content-type": "text/event-stream" });
  let open = true;
  response.on("close", () => (open = false));
  const send = (event) => response.write(`data: ${typeof event === "string" ? event : JSON.stringify({ id: "x", model: "Seevogel-30B-A3B", ...event })}\n\n`);
  const choice = (delta, finish_reason = null) => (isChat ? { index: 0, delta, finish_reason } : { index: 0, text: delta.content ?? "", finish_reason });
  if (isChat) send({ choices: [choice({ role: "assistant", content: null })] });
  for (let step = 0; step <= reads && open; step += 1) {
    if (reads) send({ choices: [], prompt_progress: { total: 4800, cache: 600, processed: 600 + (step * 4200) / reads, time_ms: step * 80 } });
    if (reads) await sleep(80);
  }
  for (const piece of pieces) {
    if (!open) return;
    send({ choices: [choice(piece)] });
    await sleep(pause);
  }
  if (vanishes) return response.destroy();
  if (error) return response.end(`data: ${JSON.stringify({ error })}\n\n`);
  send({ choices: [choice({}, reason)] });
  const usage = { prompt_tokens: 312, completion_tokens: pieces.length, total_tokens: 312 + pieces.length, prompt_tokens_details: { cached_tokens: 256 } };
  send({ choices: [], usage, timings: { predicted_per_second: 41.3, prompt_per_second: 390.5 } });
  response.end("data: [DONE]\n\n");
}

async function watch(response) {
  watchers += 1;
  response.writeHead(200, { "content-type": "text/event-stream" });
  let open = true;
  response.on("close", () => ((open = false), (watchers -= 1)));
  const resident = Array.from({ length: 24 }, (_, layer) => Array.from({ length: 64 }, (_, expert) => ((layer * 7 + expert * 5) % 9 < 5 ? 1 : 0)));
  for (let step = 0; open; step += 1) {
    const layers = resident.map((held, layer) =>
      held.map((_, expert) => (step ? Math.round(Math.max(0, 9 * Math.sin(expert * 1.7 + layer * 2.3 + step / 3) ** 9)) : 0)),
    );
    const event = { step, layers, resident, hits: step ? 1480 : 0, reads: step ? 56 : 0, bytes: step ? 56 * 3.1e6 : 0 };
    response.write(`data: ${JSON.stringify(event)}\n\n`);
    await sleep(250);
  }
}

/** What the page is made of, as the real program serves it, or as it lies in a folder. */
async function page(request, response, from) {
  if (from.folder) {
    const name = request.url === "/" ? "index.html" : new URL(request.url, "http://x").pathname.replace("/page/", "").replace(/^\/$/, "index.html");
    const kinds = { html: "text/html; charset=utf-8", css: "text/css", svg: "image/svg+xml", js: "text/javascript" };
    const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    try {
      const bytes = await readFile(path.join(from.folder, name));
      response.writeHead(200, { "content-type": kinds[name.split(".").pop()], "content-security-policy": policy });
      return response.end(bytes);
    } catch {
      return refuse(response, 404, { message: "no such file" });
    }
  }
  const real = await fetch(from.address + request.url, { headers: { accept: request.headers.accept ?? "*/*" } });
  const kept = ["content-type", "content-security-policy", "referrer-policy", "x-content-type-options"];
  response.writeHead(real.status, Object.fromEntries(kept.filter((name) => real.headers.has(name)).map((name) => [name, real.headers.get(name)])));
  response.end(Buffer.from(await real.arrayBuffer()));
}

/** Starts one; `meta` changes what is said of the model. */
export async function start(from, meta = {}) {
  const server = http.createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://x");
    try {
      if (pathname === "/v1/models") {
        const model = { id: "Seevogel-30B-A3B", object: "model", owned_by: "moewe", meta: { ...META, ...meta } };
        response.writeHead(200, { "content-type": "application/json" });
        response.end(JSON.stringify({ object: "list", data: [model] }));
      } else if (pathname === "/v1/chat/completions") await answer(request, response, true);
      else if (pathname === "/v1/completions") await answer(request, response, false);
      else if (pathname === "/v1/moewe/experts") await watch(response);
      else await page(request, response, from);
    } catch (error) {
      response.destroy(error);
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stop = () => new Promise((resolve) => (server.close(resolve), server.closeAllConnections()));
  return { address: `http://127.0.0.1:${server.address().port}`, asked, watchers: () => watchers, stop };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , first, folder] = process.argv;
  const { address } = await start(first === "--files" ? { folder } : { address: first });
  console.log(address);
}
