// OpenAI's package for JavaScript against a server: node openai_node.mjs http://127.0.0.1:PORT
//
// Each check asks twice, once through the package and once as plain JSON, and compares texts, usage and endings.

import assert from "node:assert/strict";
import { base, freed, load, raw, run, version } from "./node.mjs";

const OpenAI = load("openai").default;
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Wer fliegt über das Meer?" }];
const greedy = { model: "any", temperature: 0, max_tokens: 12 };

await run(`openai ${version("openai")}`, {
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
  async responses() {
    const request = { model: "any", input: "Wer fliegt über das Meer?", temperature: 0, max_output_tokens: 12 };
    const plain = await raw("/v1/responses", request);
    const answer = await client.responses.create(request);
    assert.equal(answer.output_text, plain.output[0].content[0].text);
    assert.deepEqual(answer.usage.output_tokens, plain.usage.output_tokens);
    const final = await client.responses.stream(request).finalResponse();
    assert.equal(final.output_text, answer.output_text);
    assert.equal(final.status, "incomplete");
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
    await freed();
  },
});
