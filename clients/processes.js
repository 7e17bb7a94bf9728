// Engines and proxies as processes of their own.
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const anteroom = process.env.ANTEROOM;
if (!anteroom) throw new Error("ANTEROOM: want the path of the program");

// start runs the program and returns what it says first that `find` can use, and how to
// end it.
export async function start(args, find, env = {}) {
  const child = spawn(anteroom, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  const said = [];
  let found;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const url = await new Promise((resolve, reject) => {
    for (const out of [child.stdout, child.stderr]) {
      createInterface({ input: out }).on("line", (line) => {
        if (said.length < 50) said.push(line);
        if (!found && (found = find(line))) resolve(found);
      });
    }
    ended.then((code) => reject(new Error(`anteroom ${args.join(" ")} ended with ${code}:\n${said.join("\n")}`)));
  });
  return {
    url,
    said,
    pid: child.pid,
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
    // end lets it end by itself.
    async end() {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

// engine runs a simulated engine, a hundred times as fast as such a server.
export function engine(kind, ...more) {
  return start(["engine", "--kind", kind, "--listen", "127.0.0.1:0", "--speed", "100", ...more],
    (line) => line.startsWith(`${kind} on `) && line.slice(`${kind} on `.length));
}

// listed are the kinds that there are.
export async function listed() {
  const { stdout } = await promisify(execFile)(anteroom, ["engine", "--list"]);
  const [kinds] = stdout.split("\nTRAP\n");
  return kinds.split("\n").slice(1).filter((line) => /^\S/.test(line)).map((line) => line.split(" ")[0]);
}

// proxy runs Anteroom before an engine. A preset is all that it is told of the engine, or
// work is: paths, each with POST, that go through admission. Each of its routes has the
// keys of extra too.
export async function proxy(url, { preset, work, extra = "" }) {
  const dir = mkdtempSync(join(tmpdir(), "anteroom-clients-"));
  const file = join(dir, "anteroom.yaml");
  writeFileSync(file, preset ? `
gpus: {gpu0: {memory: 48GiB, source: declared}}
backends: {engine: {preset: ${preset}, url: "${url}"}}
` : `
gpus: {gpu0: {memory: 48GiB, source: declared}}
classes: {work: {slots: 4, vram: 1GiB, estimate: 1s}}
backends: {engine: {url: "${url}", gpu: gpu0}}
routes:
${work.map((path) => `  - {match: {method: POST, path: "${path}"}, class: work, backend: engine${extra}}`).join("\n")}
  - {match: {path: /**}, pass: true, backend: engine}
`);
  const p = await serve(["-c", file], { ANTEROOM_STATE__FILE: "" });
  return {
    ...p,
    async stop() {
      await p.stop();
      rmSync(dir, { recursive: true });
    },
  };
}

// serve runs Anteroom with these arguments, on ports that are free.
export async function serve(args, env) {
  const p = await start(["serve", ...args, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"], (line) => {
    try {
      const said = JSON.parse(line);
      return said.msg === "listening" && said;
    } catch {
      return false;
    }
  }, env);
  return { ...p, url: p.url.url, admin: p.url.admin, listeners: p.url.listeners };
}

// run runs a command to its end.
export function run(...args) {
  return promisify(execFile)(anteroom, args);
}
