// A box with seven engines, from nothing to real clients: by the file that `init` writes,
// and without a file by `serve --to`.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { chats, kinds } from "./kinds.js";
import { engine, run, serve } from "./processes.js";

// The engines with what each is used for. vLLM is one of several that list models, so that
// its own is named.
const box = {
  vllm: (url) => chats(url, "Qwen/Qwen2.5-7B-Instruct"),
  comfyui: (url) => kinds.comfyui.use(url, true),
  ollama: kinds.ollama.use,
  whisper: (url) => kinds.whisper.use(url, true),
  tei: kinds.tei.use,
  diffusers: (url) => kinds.diffusers.use(url, true),
  gradio: (url) => kinds.gradio.use(url, true),
};

test("a box with seven engines", { timeout: 900_000 }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "anteroom-box-"));
  const card = join(dir, "card");
  const running = [];
  try {
    // One card, which Anteroom reads as one of AMD's.
    for (const kind of Object.keys(box)) running.push(await engine(kind, "--card", card, "--memory", "160GiB"));
    const found = running.flatMap((e) => ["--to", e.url]).concat("--source", "amdgpu", "--device", join(card, "card0"));
    const file = join(dir, "anteroom.yaml");

    await t.test("init writes a file that check accepts", async () => {
      const began = performance.now();
      await run("init", "--only", "--yes", "--out", file, ...found);
      const took = performance.now() - began;
      const lines = readFileSync(file, "utf8").split("\n").filter((line) => !/^\s*(#|$)/.test(line));
      const { stdout, stderr } = await run("check", "-c", file);
      t.diagnostic(`${lines.length} lines without comments, ${Math.round(took)} ms`);
      assert.equal(stderr, "", "it warns");
      assert.match(stdout, /^good: 1 GPU, 2 classes, 7 backends/);
      assert.ok(lines.length <= 40, lines.join("\n"));
      assert.ok(took < 10_000, `${took} ms`);
    });
    // The first measures what each takes, run by run, which has its time, and the second
    // goes by the state that the first has saved. The third goes by guesses alone.
    const unread = running.flatMap((e) => ["--to", e.url]).concat("--source", "declared", "--memory", "48GiB");
    for (const [how, args] of [["through the file", ["-c", file]], ["without a file", found], ["on a card that is not read", unread]]) {
      await t.test(how, async (t) => {
        const front = await serve(args, { ANTEROOM_STATE__FILE: args === unread ? "" : join(dir, "state.json") });
        try {
          for (const [kind, use] of Object.entries(box)) {
            const own = front.listeners?.[kind];
            await t.test(kind, () => use(own ? `http://${own}` : front.url));
          }
          const { data } = await (await fetch(`${front.url}/v1/models`)).json();
          for (const model of ["Qwen/Qwen2.5-7B-Instruct", "llama3.2:latest", "Systran/faster-whisper-small"]) {
            assert.ok(data.some((m) => m.id === model), `${model} is not listed`);
          }
          const metrics = await (await fetch(`${front.admin}/metrics`)).text();
          const counts = metrics.split("\n").filter((line) => line.startsWith("anteroom_requests_total{"));
          for (const kind of Object.keys(box)) {
            const admitted = (line) => line.includes(`anteroom_route="${kind}`) && line.includes('anteroom_result="ok"') &&
              !line.includes('anteroom_class=""') && !line.endsWith(" 0");
            assert.ok(counts.some(admitted), `nothing for ${kind} was admitted:\n${counts.join("\n")}`);
          }
        } finally {
          await front.end();
        }
      });
    }
  } finally {
    for (const e of running) await e.stop();
    rmSync(dir, { recursive: true });
  }
});
