// The status page in a real browser, before a running proxy and simulated engines.
import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { box, browse, folder, remove, serve } from "./page-box.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser;
before(async () => { browser = await browse(); });
after(() => browser?.close());

// look opens the page. What it writes to the console fails the test at the end.
async function look(admin, { width = 1440, height = 900, dark = false, signIn } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (m) => { if (["error", "warn"].includes(m.type())) wrong.push(`${m.type()}: ${m.text()} ${m.location()?.url ?? ""}`); });
  page.on("pageerror", (e) => wrong.push(e.stack ?? String(e)));
  await page.setViewport({ width, height });
  await page.emulateTimezone("Asia/Kolkata"); // 5:30 ahead of UTC, all year
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.goto(admin, { waitUntil: "domcontentloaded" });
  if (!signIn) await until(page, () => document.body.dataset.link === "live");
  return { page, wrong, close: () => context.close() };
}

const until = (page, does, ...args) => page.waitForFunction(does, { timeout: 20_000, polling: 50 }, ...args);

// overlapping runs in the timeline: those of a light class that ran while a heavy one did.
const overlap = () => {
  const bars = globalThis.anteroom.gantt.hits?.filter((h) => h.run && !h.waits) ?? [];
  return bars.some((l) => l.run.class === "light" && bars.some((h) => h.run.class === "heavy" && l.x < h.x2 && h.x < l.x2 && l.y + l.h <= h.y));
};

// confirm checks that a control asks, and says yes.
async function confirm(page, reason) {
  await until(page, () => document.querySelector("#ask").open);
  await page.type("#ask-reason", reason);
  await page.click("#ask-yes");
  await until(page, () => !document.querySelector("#ask").open);
}

// press does a control by its name for screen readers.
async function press(page, label) {
  const selector = `button[aria-label="${label}"]`;
  await page.waitForSelector(selector, { timeout: 10_000 });
  await page.$eval(selector, (b) => { b.scrollIntoView({ block: "center" }); b.click(); });
}

test("a light bar stands above a heavy bar within five seconds", { timeout: 60_000 }, async () => {
  const b = await box();
  try {
    const { page, wrong } = await look(b.admin);
    const heavy = b.heavy(), began = Date.now();
    while (!(await b.get("/api/state")).running.length) await new Promise((r) => setTimeout(r, 50));
    const light = b.light();
    await until(page, overlap);
    const took = Date.now() - began;
    console.log(`# a light bar above a heavy bar after ${took} ms`);
    assert.ok(took < 5000, `${took} ms`);
    assert.deepEqual(wrong, []);
    void heavy; void light;
  } finally {
    await b.stop();
  }
});

test("each control asks first, does what it says, and leaves a line", { timeout: 180_000 }, async () => {
  const b = await box({ more: "" });
  try {
    const { page, wrong } = await look(b.admin);
    const state = () => b.get("/api/state");
    const holds = async (does) => { for (let i = 0; i < 200; i++) { if (does(await state())) return; await new Promise((r) => setTimeout(r, 50)); } assert.fail("it never holds: " + does); };
    const paused = (s, name) => s.classes.find((c) => c.name === name).paused;
    const backend = (s, name) => s.backends.find((c) => c.name === name);

    // Asked, and not confirmed: nothing happens.
    await press(page, "Pause light");
    await until(page, () => document.querySelector("#ask").open);
    await page.click("#ask-no");
    await until(page, () => !document.querySelector("#ask").open);
    assert.equal(paused(await state(), "light"), false);

    await press(page, "Pause light");
    await confirm(page, "why-pause");
    await holds((s) => paused(s, "light"));
    const waits = b.light();
    await press(page, "Resume light");
    await confirm(page, "why-resume");
    await holds((s) => !paused(s, "light"));
    assert.equal(await waits, 200);

    await press(page, "Drain vqa");
    await confirm(page, "why-drain");
    await holds((s) => backend(s, "vqa").draining);
    await press(page, "Resume vqa");
    await confirm(page, "why-undrain");
    await holds((s) => !backend(s, "vqa").draining);

    await press(page, "Unload flux");
    await confirm(page, "why-unload");
    await holds((s) => backend(s, "flux").replicas[0].swaps > 0);

    const runs = b.heavy();
    await holds((s) => s.running.length > 0);
    const queued = b.heavy();
    await holds((s) => s.classes.find((c) => c.name === "heavy").queued === 1);
    const [{ id }] = (await b.get("/api/queue")).waiting;
    await press(page, `Cancel ${id}`);
    await confirm(page, "why-cancel");
    assert.equal(await queued, 503);

    const grant = (await state()).running.find((r) => r.class === "heavy").id;
    await press(page, `Release ${grant}`);
    await confirm(page, "why-release");
    await holds((s) => !s.running.some((r) => r.id === grant));
    void runs;

    await press(page, "Forget questions");
    await confirm(page, "why-forget");
    await press(page, "Reload the configuration");
    await confirm(page, "why-reload");
    await press(page, "Wake flux");
    await until(page, () => document.querySelector("#ask").open);
    await page.type("#ask-reason", "why-wake");
    await page.click("#ask-yes");
    // It is loaded already, or not: the answer is told in either case.
    await until(page, () => !document.querySelector("#ask").open || document.querySelector("#ask-error").textContent);

    // Each left a line in the history, with its reason.
    const { decisions } = await b.get("/api/decisions?for=10m");
    const reasons = decisions.filter((d) => d.kind === "control").map((d) => d.note);
    for (const why of ["pause", "resume", "drain", "undrain", "unload", "cancel", "release", "forget", "reload", "wake"]) assert.ok(reasons.includes("why-" + why), `${why}: ${reasons}`);
    assert.equal(reasons.filter((r) => r === "").length, 0, "what was not confirmed was done");
    assert.deepEqual(wrong.filter((w) => !/409|422/.test(w)), []);
  } finally {
    await b.stop();
  }
});

test("a breaker is reset by hand", { timeout: 60_000 }, async () => {
  const dir = folder();
  const p = await serve(`
gpus: {gpu0: {memory: 48GiB, source: declared}}
state: {file: ""}
classes: {work: {slots: 4, vram: 1GiB, estimate: 1s}}
backends: {gone: {url: "http://127.0.0.1:9", gpu: gpu0, breaker: {failures: 1, open: 10m}}}
routes: [{match: {path: /**}, class: work, backend: gone}]
`, dir);
  try {
    const { page, wrong } = await look(p.admin);
    for (let i = 0; i < 3; i++) await fetch(`${p.url}/x`, { method: "POST" });
    await press(page, "Reset breaker gone");
    await confirm(page, "why-reset");
    const { decisions } = await (await fetch(`${p.admin}/api/decisions?for=10m`)).json();
    assert.ok(decisions.some((d) => d.kind === "control" && d.note === "why-reset" && !d.failed));
    assert.deepEqual(wrong, []);
  } finally {
    await p.stop();
    remove(dir);
  }
});

test("behind a token the page asks for it, and a read token has no controls", { timeout: 60_000 }, async () => {
  const b = await box({ admin: "token: s3cret, read_token: l00k" });
  try {
    for (const [token, controls] of [["s3cret", true], ["l00k", false]]) {
      const { page, wrong, close } = await look(b.admin, { signIn: true });
      await until(page, () => document.querySelector("#login").open);
      await page.type("#login-token", "wrong");
      await page.keyboard.press("Enter");
      await until(page, () => document.querySelector("#login-error").textContent);
      await page.$eval("#login-token", (e) => (e.value = ""));
      await page.type("#login-token", token);
      await page.keyboard.press("Enter");
      await until(page, () => document.body.dataset.link === "live");
      await until(page, () => document.querySelector("#backends-t tbody td"));
      const seen = await page.$$eval("button", (all) => all.filter((x) => x.checkVisibility() && /^(Pause|Drain|Unload|Wake|Reload)/.test(x.textContent)).map((x) => x.textContent));
      assert.equal(seen.length > 0, controls, `${token}: ${seen}`);
      const [cookie] = await page.browserContext().cookies();
      assert.ok(cookie.httpOnly && cookie.sameSite === "Strict" && !cookie.value.includes(token));
      const refused = await page.evaluate(async () => (await fetch("/api/classes/light/pause", { method: "POST" })).status);
      assert.equal(refused, controls ? 204 : 403);
      // A browser notes refusals that are meant: 401 before the token, 403 without controls.
      assert.deepEqual(wrong.filter((w) => !/40[13]/.test(w)), []);
      await close();
    }
  } finally {
    await b.stop();
  }
});

test("the page is what /api/state says at the same moment", { timeout: 60_000 }, async () => {
  const b = await box({ admin: 'trace_url: "http://127.0.0.1:16686/trace/{trace_id}"' });
  try {
    const { page, wrong } = await look(b.admin);
    const work = [b.heavy(), b.heavy(), b.heavy()];
    await until(page, () => globalThis.anteroom.model.state.waiting.length === 2 && globalThis.anteroom.model.learned);
    const s = await b.get("/api/state"), q = await b.get("/api/queue");
    await until(page, (at) => Date.parse(globalThis.anteroom.model.state.at) > at, Date.parse(s.at));
    await until(page, () => document.querySelectorAll("#queue-t tbody tr:not(.space)").length === 2 && document.querySelectorAll("#running-t tbody tr:not(.space)").length === 1);
    const shown = await page.evaluate(() => ({
      waiting: [...document.querySelectorAll("#queue-t tbody tr:not(.space)")].map((tr) => [...tr.cells].slice(0, 4).map((c) => c.textContent)),
      running: [...document.querySelectorAll("#running-t tbody tr:not(.space)")].map((tr) => [...tr.cells].slice(0, 3).map((c) => c.textContent)),
      tiles: Object.fromEntries([...document.querySelectorAll(".tile")].map((t) => [t.querySelector("h2").textContent, [...t.querySelectorAll("dd")].slice(0, 2).map((d) => d.textContent)])),
      backends: [...document.querySelectorAll("#backends-t tbody tr:not(.space)")].map((tr) => [tr.cells[0].textContent, tr.cells[2].textContent, tr.cells[3].textContent]),
      free: document.querySelector(".free").textContent,
      clock: document.querySelector("#clock").textContent, utc: document.querySelector("#clock").title,
    }));
    assert.deepEqual(shown.waiting, q.waiting.map((w) => [String(w.id), w.class, String(w.position + 1), w.backend]));
    assert.deepEqual(shown.running, s.running.map((r) => [String(r.id), r.class, r.backend]));
    for (const c of s.classes) assert.deepEqual(shown.tiles[c.name], [`${c.running} / ${c.slots}`, String(c.queued)]);
    assert.deepEqual(shown.backends.sort(), s.backends.map((x) => [x.name, x.replicas[0].residency, x.breaker]).sort());
    assert.match(shown.free, new RegExp(`of ${(s.gpus[0].capacity_bytes / 2 ** 30).toFixed(1)} GiB available`));
    const minutes = (t) => t.split(":").slice(0, 2).reduce((m, x) => 60 * m + Number(x), 0);
    assert.match(shown.utc, / UTC$/);
    assert.equal((minutes(shown.clock) - minutes(shown.utc.slice(11)) + 1440) % 1440, 330, `${shown.clock} is ${shown.utc}`);
    assert.deepEqual(wrong, []);
    void work;
  } finally {
    await b.stop();
  }
});

test("every control is reached by the keyboard, and axe finds nothing serious", { timeout: 120_000 }, async () => {
  const b = await box();
  try {
    for (const how of [{}, { dark: true }, { width: 390, height: 844 }]) {
      const { page, wrong, close } = await look(b.admin, how);
      const work = [b.heavy(), b.heavy(), b.light(), b.light()];
      // Only what is on the screen is drawn.
      for (const [panel, buttons] of [["learned", 0], ["waits", 0], ["requests", 1], ["backends", 4], ["running", 1], ["queue", 1]]) {
        await page.$eval(`#${panel}`, (s) => s.scrollIntoView());
        await until(page, (p, n) => document.querySelectorAll(`#${p} tbody button`).length >= n, panel, buttons);
      }
      await page.evaluate(() => scrollTo(0, 0));
      // The policy lets no script in that is not the page's: axe comes by the debugger.
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      const serious = violations.filter((v) => ["serious", "critical"].includes(v.impact));
      assert.deepEqual(serious.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).slice(0, 3)}`), []);

      const visible = await page.$$eval("button, a[href], canvas[tabindex]", (all) => all.filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && !e.closest("dialog")).map((e) => { e.dataset.reach = "no"; return e; }).length);
      await page.evaluate(() => document.activeElement?.blur());
      for (let i = 0; i < visible + 40; i++) {
        await page.keyboard.press("Tab");
        await page.evaluate(() => { if (document.activeElement.dataset.reach) document.activeElement.dataset.reach = "yes"; });
      }
      const missed = await page.$$eval('[data-reach="no"]', (all) => all.filter((e) => e.isConnected).map((e) => e.getAttribute("aria-label") || e.textContent));
      assert.deepEqual(missed, []);
      // The timeline goes by keys, and says what is picked.
      await page.focus("#gantt-canvas");
      await page.keyboard.press("ArrowUp");
      await until(page, () => /request \d+, (heavy|light) on/.test(document.querySelector("#gantt-said").textContent));
      await page.keyboard.press("Enter");
      await until(page, () => document.querySelector("#details").open);
      await page.keyboard.press("Escape");
      assert.deepEqual(wrong, []);
      await close();
      void work;
    }
  } finally {
    await b.stop();
  }
});

test("what is stale and what is gone looks like it, and comes back", { timeout: 60_000 }, async () => {
  const b = await box();
  let stopped = false;
  try {
    const { page } = await look(b.admin);
    process.kill(b.pid, "SIGSTOP");
    await until(page, () => document.body.dataset.link === "stale");
    process.kill(b.pid, "SIGCONT");
    await until(page, () => document.body.dataset.link === "live");
    await b.stop();
    stopped = true;
    await until(page, () => document.body.dataset.link === "lost" && !document.querySelector("#banner").hidden);
  } finally {
    if (!stopped) await b.stop();
  }
});

// mainTasks are the tasks of the page's main thread in a trace: the processor time of each in
// ms, the longest first.
function mainTasks({ traceEvents: all }) {
  const threads = new Set(all.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map((e) => `${e.pid}/${e.tid}`));
  return all.filter((e) => e.ph === "X" && e.name.endsWith("RunTask") && threads.has(`${e.pid}/${e.tid}`)).map((e) => (e.tdur ?? 0) / 1000).sort((a, b) => b - a);
}

const waiting = Number(process.env.WAITING || 10_000);

test(`${waiting} wait at 100 backends, and no task of the page is long`, { timeout: 400_000 }, async () => {
  const server = createServer((q) => q.resume()); // never answers
  await new Promise((r) => server.listen(0, "127.0.0.1", r));
  const url = `http://127.0.0.1:${server.address().port}`, dir = folder(), n = 100;
  const each = (f) => Array.from({ length: n }, (_, i) => f(i)).join("\n");
  const p = await serve(`
gpus:
${Array.from({ length: 8 }, (_, i) => `  gpu${i}: {device: ${i}, memory: 80GiB, source: declared}`).join("\n")}
state: {file: ""}
classes:
  heavy: {slots: 4, vram: 20GiB, estimate: 8s, queue: {limit: 20000, timeout: 1h}}
  light: {slots: 40, vram: 1GiB, estimate: 1s, queue: {limit: 20000, timeout: 1h}}
backends:
${each((i) => `  b${i}: {url: "${url}", gpu: gpu${i % 8}, resident: 1GiB, returns_memory: true}`)}
routes:
${each((i) => `  - {name: r${i}, match: {method: POST, path: /${i}}, class: ${i % 2 ? "light" : "heavy"}, backend: b${i}}`)}
`, dir);
  const ends = new AbortController();
  setMaxListeners(0, ends.signal);
  try {
    for (let i = 0; i < waiting + 44; i++) {
      fetch(`${p.url}/${i % n}`, { method: "POST", body: "{}", signal: ends.signal }).catch(() => {});
      if (i % 200 === 199) await new Promise((r) => setTimeout(r, 20));
    }
    const queued = async () => (await (await fetch(`${p.admin}/api/state`)).json()).classes.reduce((m, c) => m + c.queued, 0);
    for (let i = 0; i < 2000 && (await queued()) < waiting; i++) await new Promise((r) => setTimeout(r, 100));
    assert.equal(await queued(), waiting);

    const { page, wrong } = await look(p.admin);
    await until(page, () => document.querySelectorAll("#queue-t tbody tr:not(.space)").length > 5);
    await page.evaluate(() => {
      globalThis.long = [];
      new PerformanceObserver((l) => globalThis.long.push(...l.getEntries().map((e) => Math.round(e.duration)))).observe({ type: "longtask" });
    });
    await page.tracing.start({ categories: ["toplevel", "devtools.timeline", "v8"] });
    await page.evaluate(async () => {
      const pause = (ms) => new Promise((r) => setTimeout(r, ms));
      document.querySelector("#queue-all").click();
      await pause(3500);
      for (const s of document.querySelectorAll("section")) { s.scrollIntoView(); await pause(300); }
      const list = document.querySelector("#queue-t .scroll");
      list.scrollIntoView({ block: "center" });
      for (let y = 0; y < list.scrollHeight; y += 900) { list.scrollTop = y; await pause(50); }
      document.querySelector("#queue-t th button").click();
      await pause(3000);
    });
    const tasks = mainTasks(JSON.parse(Buffer.from(await page.tracing.stop()).toString()));
    const { long, rows, most } = await page.evaluate(() => ({ long: globalThis.long, rows: document.querySelectorAll("#queue-t tbody tr").length, most: globalThis.anteroom.tables.queue.rows.length }));
    console.log(`# ${waiting} wait; ${most} in the table, ${rows} of them drawn`);
    console.log(`# ${tasks.length} tasks; the longest take ${tasks.slice(0, 5).map((t) => t.toFixed(1)).join(", ")} ms of the processor; by the clock, beside all else that runs here, over 50 ms: ${long.join(", ") || "none"}`);
    assert.ok(rows < 60 && most === Math.min(1000, waiting), `${rows} of ${most} rows`);
    assert.deepEqual(wrong, []);
    // A task's own time, so that a busy machine does not count.
    assert.ok(tasks.length > 100 && tasks[0] <= 50, `the longest task takes ${tasks[0]} ms`);
  } finally {
    ends.abort();
    await p.stop();
    server.closeAllConnections();
    server.close();
    remove(dir);
  }
});

test("the page is one stream, small, and nothing from elsewhere", { timeout: 60_000 }, async () => {
  const b = await box();
  try {
    const context = await browser.createBrowserContext(), page = await context.newPage();
    const session = await page.createCDPSession(), sizes = new Map(), urls = [];
    await session.send("Network.enable");
    session.on("Network.requestWillBeSent", (e) => urls.push(e.request.url));
    session.on("Network.loadingFinished", (e) => sizes.set(e.requestId, e.encodedDataLength));
    const answer = await page.goto(b.admin);
    await until(page, () => document.body.dataset.link === "live");
    assert.match(answer.headers()["content-security-policy"], /default-src 'none'/);
    assert.doesNotMatch(answer.headers()["content-security-policy"], /unsafe|\*|data:/);
    const bytes = [...sizes.values()].reduce((n, x) => n + x, 0);
    console.log(`# ${bytes} bytes were transferred, with what the page asked of the API`);
    assert.ok(bytes < 100_000);
    assert.equal(urls.filter((u) => u.includes("/api/events")).length, 1);
    assert.deepEqual(urls.filter((u) => !u.startsWith(b.admin)), []);
    // A script that is put into the page does not run.
    const ran = await page.evaluate(() => {
      try {
        const s = document.createElement("script");
        s.textContent = "globalThis.ran = true";
        document.body.append(s);
      } catch { /* trusted types */ }
      return globalThis.ran === true;
    });
    assert.equal(ran, false);
  } finally {
    await b.stop();
  }
});
