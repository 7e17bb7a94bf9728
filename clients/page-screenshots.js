// Writes the pictures of docs/observability.md: three engines that do not fit beside each
// other on a simulated card, with traffic, as the status page shows them. It takes three minutes.
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { browse, engine, folder, remove, serve } from "./page-box.js";

const out = process.argv[2] || "../docs/pictures", minutes = Number(process.env.MINUTES || 3);
const dir = folder(), card = join(dir, "card"), pause = (ms) => new Promise((r) => setTimeout(r, ms));
const flags = ["--card", card];
const engines = [
  await engine("comfyui", ...flags, "--weights", "24GiB", "--per-run", "10GiB"),
  await engine("vllm", ...flags, "--weights", "22GiB"),
  await engine("ollama", ...flags, "--models", "llava=5GiB", "--per-run", "1GiB", "--returns-memory"),
];
let config = readFileSync("../examples/one-card-three-engines/anteroom.yaml", "utf8").replaceAll("/tmp/anteroom-card", card);
["8188", "8000", "11434"].forEach((port, i) => (config = config.replaceAll(`http://127.0.0.1:${port}`, engines[i].url)));
const p = await serve(`${config}\nstate: {file: ""}\nadmin: {trace_url: "http://127.0.0.1:16686/trace/{trace_id}"}\n`, dir);
const browser = await browse();

let over = false;
const post = (path, body) => fetch(p.url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }).then((r) => r.arrayBuffer()).catch(() => {});
// A fixed sequence, so that the pictures differ little from run to run.
let seed = 7;
const random = () => (seed = (seed * 1103515245 + 12345) % 2 ** 31) / 2 ** 31;
const loop = async (every, does) => {
  while (!over) {
    does();
    await pause(every * (0.4 + 1.2 * random()));
  }
};
loop(21_000, () => post("/prompt", { prompt: { 3: {} } }));
loop(1_800, () => post("/api/generate", { model: "llava", prompt: "What is it?", stream: false }));
loop(26_000, () => { for (let i = 0; i < 4; i++) post("/v1/chat/completions", { messages: [{ role: "user", content: "Hello" }] }); });

const context = await browser.createBrowserContext(), page = await context.newPage();
await page.setViewport({ width: 1440, height: 900 });
await page.goto(p.admin);
await pause(minutes * 60e3);

async function shot(name, { width, height, dark = false, scale = 1, before }) {
  await page.setViewport({ width, height, deviceScaleFactor: scale });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.evaluate(before ?? (() => scrollTo(0, 0)));
  await pause(1800);
  const path = join(out, `${name}.webp`);
  await page.screenshot({ path, type: "webp", quality: 82 });
  console.log(path, statSync(path).size);
}
await page.evaluate(() => document.querySelector('[data-span="300"]').click());
await shot("page-light", { width: 1440, height: 900 });
await shot("page-dark", { width: 1440, height: 900, dark: true });
await shot("page-waits", { width: 1440, height: 900, before: () => document.querySelector("#backends").scrollIntoView() });
await shot("page-phone", { width: 390, height: 844, dark: true, scale: 1.5 });

over = true;
await browser.close();
for (const x of [p, ...engines]) await x.stop();
remove(dir);
process.exit(0); // requests may still wait
