// Ollama's package for JavaScript against a server: node ollama_node.mjs http://127.0.0.1:PORT
//
// Each check asks twice, once through the package and once as plain JSON, and compares texts, counts and endings.

import assert from "node:assert/strict";
import { base, freed, load, raw, run, version } from "./node.mjs";

const { Ollama } = load("ollama");
const client = new Ollama({ host: base });
const messages = [{ role: "user", content: "Wer fliegt über das Meer?" }];
const options = { num_predict: 12, temperature: 0 };

function check(answer, plain) {
  for (const name of ["model", "done", "done_reason", "prompt_eval_count", "eval_count"])
    assert.equal(answer[name], plain[name], name);
}

await run(`ollama ${version("ollama")}`, {
  async chat() {
    const plain = await raw("/api/chat", { messages, options, stream: false });
    const answer = await client.chat({ model: "any", messages, options });
    assert.deepEqual(answer.message, plain.message);
    check(answer, plain);
  },
  async stream() {
    const plain = await raw("/api/chat", { messages, options, stream: false });
    let [text, last] = ["", null];
    for await (const part of await client.chat({ model: "any", messages, options, stream: true })) {
      text += part.message.content;
      last = part;
    }
    assert.equal(text, plain.message.content);
    check(last, plain);
  },
  async generate() {
    const request = { model: "any", prompt: "Die Möwe", raw: true, options };
    const plain = await raw("/api/generate", { ...request, stream: false });
    const answer = await client.generate(request);
    assert.equal(answer.response, plain.response);
    check(answer, plain);
    let text = "";
    for await (const part of await client.generate({ ...request, stream: true })) text += part.response;
    assert.equal(text, plain.response);
  },
  async models() {
    const [model] = (await client.list()).models;
    assert.equal((await client.ps()).models[0].name, model.name);
    assert.ok((await client.show({ model: model.name })).capabilities.includes("completion"));
  },
  async errors() {
    const refused = (status) => (error) => error.status_code === status && error.message.length > 0;
    const bird = [{ role: "bird", content: "" }];
    await assert.rejects(client.chat({ model: "any", messages: bird }), refused(400));
    await assert.rejects(client.embed({ model: "any", input: "a" }), refused(501));
    await assert.rejects(client.pull({ model: "any" }), refused(403));
  },
  async abort() {
    const endless = { ...options, num_predict: 400, ignore_eos: true };
    const stream = await client.generate({ model: "any", prompt: "Die Möwe", options: endless, stream: true });
    await assert.rejects(async () => {
      for await (const _ of stream) stream.abort();
    });
    await freed();
  },
});
