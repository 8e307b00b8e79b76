// What the checks with packages for JavaScript share. The packages lie where they were installed, not beside these files.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

export const load = createRequire(path.join(process.cwd(), "package.json"));
export const base = process.argv[2];

export const version = (name) =>
  JSON.parse(readFileSync(path.join(process.cwd(), "node_modules", name, "package.json"))).version;

export async function raw(route, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${base}${route}`, { method: "POST", headers, body: JSON.stringify(body) });
  assert.equal(answer.status, 200);
  return answer.json();
}

async function metric(name) {
  const text = await (await fetch(`${base}/metrics`)).text();
  return Number(text.split("\n").find((line) => line.startsWith(`${name} `))?.split(" ")[1] ?? 0);
}

// Waits until nothing is computed any more.
export async function freed() {
  for (let left = 500; (await metric("moewe_requests_processing")) > 0; left -= 1) {
    assert.ok(left > 0, "it is still computed");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export async function run(what, checks) {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (error) {
      error.message = `${name}: ${error.message}`;
      throw error;
    }
  }
  console.log(`${what} for JavaScript: ${Object.keys(checks).length} checks`);
}
