// A proxy in front of simulated engines on one simulated card, with traffic, and a browser
// that looks at its status page. The tests and the screenshots use it.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer from "puppeteer-core";
import { start } from "./processes.js";

export const chromium = process.env.CHROMIUM || "/usr/bin/chromium";

// browse opens a browser.
export const browse = () => puppeteer.launch({ executablePath: chromium, headless: true, args: ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"] });

// serve runs a proxy with a configuration, of which `${listen}` needs no mention. It gives
// the addresses and how to end it.
export async function serve(config, dir) {
  const file = join(dir, "anteroom.yaml");
  writeFileSync(file, config);
  const p = await start(["serve", "-c", file, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"], (line) => {
    try {
      const said = JSON.parse(line);
      return said.msg === "listening" && said;
    } catch {
      return false;
    }
  });
  return { url: p.url.url, admin: p.url.admin, file, said: p.said, pid: p.pid, stop: p.stop };
}

export const folder = () => mkdtempSync(join(tmpdir(), "anteroom-page-"));
export const remove = (dir) => rmSync(dir, { recursive: true, force: true });

export const engine = (kind, ...flags) => start(["engine", "--kind", kind, "--listen", "127.0.0.1:0", ...flags], (line) => line.startsWith(`${kind} on `) && line.slice(`${kind} on `.length));

// box is the card of the README: an image server and one that answers questions. speed makes
// the engines faster.
export async function box({ speed = 1, admin = "", more = "", flux = [], vqa = [] } = {}) {
  const dir = folder(), card = join(dir, "card");
  const flags = ["--card", card, "--speed", String(speed)];
  const engines = [await engine("flux", ...flags, ...flux), await engine("vqa", ...flags, "--returns-memory", ...vqa)];
  const proxy = await serve(`
admin: {${admin}}
gpus: {gpu0: {memory: 48GiB, source: amdgpu, device: ${join(card, "card0")}}}
state: {file: ""}
classes:
  heavy: {slots: 1, vram: 12GiB, estimate: ${18 / speed}s, strict_after: 60s}
  light: {slots: 8, vram: 480MiB, estimate: ${1.5 / speed}s}
backends:
  flux: {url: "${engines[0].url}", gpu: gpu0, resident: 22GiB, reclaim: {call: "POST /free"}}
  vqa: {url: "${engines[1].url}", gpu: gpu0, resident: 512MiB, cancel: aborts, returns_memory: true}
routes:
  - {name: images, match: {method: POST, path: /v1/images/generations}, class: heavy, backend: flux}
  - {name: questions, match: {method: POST, path: /v1/chat/completions}, class: light, backend: vqa}
${more}`, dir);
  const post = async (path, body) => {
    try {
      const answer = await fetch(proxy.url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
      await answer.arrayBuffer();
      return answer.status;
    } catch {
      return 0; // the proxy has ended
    }
  };
  return {
    ...proxy, dir,
    heavy: () => post("/v1/images/generations", { prompt: "a fox" }),
    light: () => post("/v1/chat/completions", { messages: [{ role: "user", content: "What is it?" }] }),
    get: async (path) => (await fetch(proxy.admin + path)).json(),
    async stop() {
      for (const p of [proxy, ...engines]) await p.stop();
      remove(dir);
    },
  };
}
