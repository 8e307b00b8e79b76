// OpenAI's package for JavaScript against a server: node openai_node.mjs http://127.0.0.1:PORT
//
// Each check asks twice, once through the package and once as plain JSON, and compares texts, usage and endings.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

// The package lies where it was installed, not beside this file.
const require = createRequire(path.join(process.cwd(), "package.json"));
const OpenAI = require("openai").default;

const base = process.argv[2];
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Wer fliegt über das Meer?" }];
const greedy = { model: "any", temperature: 0, max_tokens: 12 };

async function raw(route, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${base}${route}`, { method: "POST", headers, body: JSON.stringify(body) });
  assert.equal(answer.status, 200);
  return answer.json();
}

async function metric(name) {
  const text = await (await fetch(`${base}/metrics`)).text();
  return Number(text.split("\n").find((line) => line.startsWith(`${name} `))?.split(" ")[1] ?? 0);
}

const checks = {
  async chat() {
    const plain = await raw("/v1/chat/completions", { ...greedy, messages });
    const answer = await client.chat.completions.create({ ...greedy, messages });
    assert.equal(answer.choices[0].message.content, plain.choices[0].message.content);
    assert.equal(answer.choices[0].finish_reason, plain.choices[0].finish_reason);
    for (const name of ["prompt_tokens", "completion_tokens", "total_tokens"])
      assert.equal(answer.usage[name], plain.usage[name]);
  },
  async stream() {
    const plain = await raw("/v1/chat/completions", { ...greedy, messages });
    const options = { stream: true, stream_options: { include_usage: true } };
    let [text, reason, usage] = ["", null, null];
    for await (const chunk of await client.chat.completions.create({ ...greedy, messages, ...options })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      reason = chunk.choices[0]?.finish_reason ?? reason;
      usage = chunk.usage ?? usage;
    }
    assert.deepEqual([text, reason], [plain.choices[0].message.content, plain.choices[0].finish_reason]);
    assert.equal(usage.completion_tokens, plain.usage.completion_tokens);
  },
  async helper() {
    const plain = await raw("/v1/chat/completions", { ...greedy, messages });
    const runner = client.chat.completions.stream({ ...greedy, messages });
    assert.equal(await runner.finalContent(), plain.choices[0].message.content);
  },
  async completions() {
    const request = { ...greedy, prompt: "Die Möwe" };
    const plain = await raw("/v1/completions", request);
    let text = "";
    for await (const chunk of await client.completions.create({ ...request, stream: true }))
      text += chunk.choices[0].text;
    assert.equal(text, plain.choices[0].text);
  },
  async models() {
    const list = [];
    for await (const model of client.models.list()) list.push(model.id);
    assert.equal(list.length, 1);
    assert.equal((await client.models.retrieve(list[0])).id, list[0]);
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ ...greedy, messages: [] }), OpenAI.BadRequestError);
    await assert.rejects(client.models.retrieve("nobody"), OpenAI.NotFoundError);
  },
  async abort() {
    const stop = new AbortController();
    const request = { ...greedy, messages, stream: true, max_tokens: 400, ignore_eos: true };
    const stream = await client.chat.completions.create(request, { signal: stop.signal });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    stop.abort();
    for (let left = 500; (await metric("moewe_requests_processing")) > 0; left -= 1) {
      assert.ok(left > 0, "it is still computed");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}
const { version } = JSON.parse(readFileSync(path.join(process.cwd(), "node_modules/openai/package.json")));
console.log(`openai ${version} for JavaScript: ${Object.keys(checks).length} checks`);
