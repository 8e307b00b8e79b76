// Anthropic's package for JavaScript against a server: node anthropic_node.mjs http://127.0.0.1:PORT
//
// Each check asks twice, once through the package and once as plain JSON, and compares texts, usage and endings.

import assert from "node:assert/strict";
import { base, freed, load, raw, run, version } from "./node.mjs";

const Anthropic = load("@anthropic-ai/sdk").default;
const client = new Anthropic({ baseURL: base, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Wer fliegt über das Meer?" }];
const greedy = { model: "any", temperature: 0, max_tokens: 12 };

const sum = (usage) => usage.input_tokens + usage.cache_read_input_tokens;

function check(message, plain) {
  assert.deepEqual(message.content, plain.content);
  assert.deepEqual([message.stop_reason, message.stop_sequence], [plain.stop_reason, plain.stop_sequence]);
  assert.equal(message.usage.output_tokens, plain.usage.output_tokens);
  assert.equal(sum(message.usage), sum(plain.usage));
}

await run(`@anthropic-ai/sdk ${version("@anthropic-ai/sdk")}`, {
  async messages() {
    const plain = await raw("/v1/messages", { ...greedy, messages });
    const message = await client.messages.create({ ...greedy, messages });
    assert.equal(message.stop_reason, "max_tokens");
    check(message, plain);
  },
  async events() {
    const plain = await raw("/v1/messages", { ...greedy, messages });
    let text = "";
    const kinds = [];
    for await (const event of await client.messages.create({ ...greedy, messages, stream: true })) {
      kinds.push(event.type);
      if (event.type === "content_block_delta") text += event.delta.text;
    }
    assert.equal(text, plain.content[0].text);
    assert.deepEqual([kinds[0], kinds.at(-1)], ["message_start", "message_stop"]);
  },
  async helper() {
    const plain = await raw("/v1/messages", { ...greedy, messages });
    check(await client.messages.stream({ ...greedy, messages }).finalMessage(), plain);
  },
  async stop_sequence() {
    const whole = (await client.messages.create({ ...greedy, messages })).content[0].text;
    const stop = whole.slice(4, 7);
    const stopped = await client.messages.create({ ...greedy, messages, stop_sequences: [stop] });
    assert.equal(stopped.content[0].text, whole.slice(0, whole.indexOf(stop)));
    assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ["stop_sequence", stop]);
  },
  async count_tokens() {
    const counted = await client.messages.countTokens({ model: "any", messages });
    assert.equal(counted.input_tokens, sum((await client.messages.create({ ...greedy, messages })).usage));
  },
  async errors() {
    await assert.rejects(client.messages.create({ ...greedy, messages: [] }), Anthropic.BadRequestError);
    const image = [{ role: "user", content: [{ type: "image", source: { type: "url", url: "x" } }] }];
    await assert.rejects(client.messages.create({ ...greedy, messages: image }), Anthropic.BadRequestError);
    await assert.rejects(client.models.retrieve("nobody"), Anthropic.NotFoundError);
  },
  async abort() {
    const stop = new AbortController();
    const request = { ...greedy, messages, stream: true, max_tokens: 400, ignore_eos: true };
    const stream = await client.messages.create(request, { signal: stop.signal });
    for await (const event of stream) if (event.type === "content_block_delta") break;
    stop.abort();
    await freed();
  },
});
