// The AI SDK against a server: node more_node.mjs http://127.0.0.1:PORT

import assert from "node:assert/strict";
import { base, load, raw, run, version } from "./node.mjs";

const { generateText, streamText } = load("ai");
const { createOpenAICompatible } = load("@ai-sdk/openai-compatible");
const provider = createOpenAICompatible({ name: "moewe", baseURL: `${base}/v1`, includeUsage: true });
const prompt = "Wer fliegt über das Meer?";
const greedy = { temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
const plain = await raw("/v1/chat/completions", {
  messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: 12,
});
const said = plain.choices[0].message.content;

await run(`ai ${version("ai")}`, {
  async whole() {
    const answer = await generateText({ model: provider("any"), prompt, ...greedy });
    assert.deepEqual([answer.text, answer.finishReason], [said, "length"]);
    assert.equal(answer.usage.inputTokens, plain.usage.prompt_tokens);
    assert.equal(answer.usage.outputTokens, 12);
  },
  async stream() {
    const answer = streamText({ model: provider("any"), prompt, ...greedy });
    let text = "";
    for await (const part of answer.textStream) text += part;
    assert.deepEqual([text, await answer.finishReason], [said, "length"]);
    assert.equal((await answer.usage).outputTokens, 12);
  },
  async errors() {
    const long = generateText({ model: provider("any"), prompt: "Möwe ".repeat(3000), ...greedy });
    await assert.rejects(long, (error) => error.statusCode === 400 && error.message.includes("positions"));
  },
});
