// The status page: asks who it talks to, listens to one stream, and draws in its own time.
import { model, handlers, weigh, now, rel, gpus } from "./model.js";
import { $, el, set, button, bytes, seconds, clock, utc, count, moment, theme } from "./format.js";
import { Table } from "./table.js";
import { Gantt, sayDecision } from "./gantt.js";
import { drawCards, drawMemory, drawWaits } from "./cards.js";
import { ask, acted, call, details, login, mayAct, toast } from "./controls.js";

const STALE = 4000, LOST = 15000, AWAY = 60e3, BUDGET = 12;

// ---- Drawing in pieces: each is a task of its own, so that none is long.

const pieces = new Map(); // name: draw
const due = new Set();
let working = false;

function draw(...names) {
  if (!model.state) return;
  for (const n of names) due.add(n);
  if (working || document.hidden) return;
  working = true;
  setTimeout(work);
}

function work() {
  const began = performance.now();
  for (const n of [...due]) {
    due.delete(n);
    pieces.get(n)?.();
    if (performance.now() - began > BUDGET) break;
  }
  if (due.size) return void setTimeout(work);
  working = false;
}

// seen are the panels on the screen: others are not drawn.
const seen = new Set();
let compared = -Infinity; // when waits were last compared
const watch = new IntersectionObserver((all) => {
  for (const e of all) {
    e.isIntersecting ? seen.add(e.target.id) : seen.delete(e.target.id);
    if (e.isIntersecting) draw(e.target.id);
    if (e.isIntersecting && e.target.id === "waits" && performance.now() - compared > 10e3) compare();
  }
}, { rootMargin: "100px" });

// ---- Panels.

const name = (x) => (x.replica ? `${x.backend}/${x.replica}` : x.backend);
const swatch = (i) => {
  const s = el("i", "swatch");
  s.style.backgroundColor = theme.colour(i ?? 9);
  return s;
};
// dyed puts the swatch of a class or a backend before a cell's text.
const dyed = (td, text, i) => {
  const key = text + i + theme.name;
  if (td.dyed === key) return;
  td.dyed = key;
  td.replaceChildren(swatch(i), text);
};
const classCell = { id: "class", label: "Class", sort: (r) => r.class, draw: (td, r) => dyed(td, r.class || "–", model.classColour.get(r.class)) };

function traceLink(id) {
  if (!id || /^0*$/.test(id)) return null;
  const at = model.session?.trace_url;
  if (!at) return id;
  const a = el("a", "", id);
  a.href = at.replaceAll("{trace_id}", id);
  a.target = "_blank";
  a.rel = "noopener noreferrer";
  return a;
}

const blockers = (w) => {
  const all = w.blocked_by.running.map((id) => {
    const r = model.state.running.find((x) => x.id === id);
    return r ? `${r.class} ${id} on ${name(r)}` : `request ${id}`;
  });
  if (all.length > 3) all.splice(2, all.length, `${w.blocked_by.running.length - 2} more`);
  for (const i of w.blocked_by.idle || []) all.push(`${name(i)} (idle, ${bytes(i.high_bytes)})`);
  for (const p of w.blocked_by.processes || []) all.push(`${p.name} (PID ${p.pid}, ${bytes(p.used_bytes)})`);
  if (w.reserved_for) all.push(`the reservation of ${w.reserved_for}`);
  return all.join(", ");
};
const startsIn = (w) => (w.estimated_start ? Math.max(0, (rel(w.estimated_start) - now()) / 1000) : Infinity);
const whenCell = (ms) => (td, r) => moment(td, ms(r));

function openWaiter(w) {
  details(`Request ${w.id} waits`, [["Class", w.class], ["Backend", w.backend], ["Tenant", w.tenant], ["Position", `${w.position + 1} in its class`], ["Waits for", w.says], ["In the way", blockers(w)],
    ["Memory", `${bytes(w.vram_bytes)}${w.declared_bytes !== w.vram_bytes ? `, declared ${bytes(w.declared_bytes)}` : ""}`], ["Arrived", `${clock(rel(w.arrived))} (${utc(rel(w.arrived))})`],
    ["Waited", seconds(w.waited_s)], ["Expected to start", w.estimated_start && clock(rel(w.estimated_start))], ["Strict", w.strict && "nothing passes it any more that could delay it"], ["Trace", traceLink(w.trace_id)]],
  [["cancel", w.id, "Cancel request"]]);
}

function openRun(r) {
  const q = r.request, runs = r.end === null;
  details(`Request ${r.grant}${runs ? " runs" : ""}`, [["Class", r.class], ["Backend", name(r)], ["GPU", gpus(r.backend, r.replica).join(", ")], ["Route", q?.route], ["Tenant", q?.tenant ?? r.tenant], ["Model", q?.model], ["Asked", q && `${q.method} ${q.path}`],
    ["Waited", seconds((r.start - r.asked) / 1000)], ["Waited for", r.reason?.replaceAll("_", " ")], ["Began", `${clock(r.start)} (${utc(r.start)})`], [runs ? "Runs for" : "Ran", seconds(((r.end ?? now()) - r.start) / 1000)],
    ["Expected to end", runs && r.expected ? clock(r.expected) : ""], ["Memory", r.vram && bytes(r.vram)], ["Result", r.result && [r.result, q?.status, r.code?.replaceAll("_", " ")].filter(Boolean).join(", ")], ["Trace", traceLink(r.trace)]],
  runs ? [["release", r.grant, "Release grant"]] : []);
}

function openRequest(q) {
  const run = model.runs.get(q.grant);
  if (run) return openRun(run);
  details(`${q.method} ${q.path}`, [["Result", [q.result, q.status, q.code?.replaceAll("_", " ")].filter(Boolean).join(", ")], ["Route", q.route], ["Class", q.class], ["Backend", q.backend && name(q)], ["Tenant", q.tenant], ["Model", q.model],
    ["Ended", `${clock(q.ms)} (${utc(q.ms)})`], ["Waited", seconds(q.wait_s)], ["Took", seconds(q.total_s)], ["Waited for", q.reason?.replaceAll("_", " ")], ["Trace", traceLink(q.trace_id)]]);
}

const tables = {};
let everyWaiter = null;

function makeTables() {
  tables.queue = new Table($("queue-t"), {
    label: "Waiting requests", key: (w) => w.id, empty: "Nothing waits.", open: openWaiter,
    columns: [
      { id: "id", label: "Request", text: (w) => String(w.id), sort: (w) => w.id },
      classCell,
      { id: "position", label: "Place", cls: "num", text: (w) => String(w.position + 1), sort: (w) => w.position },
      { id: "backend", label: "Backend", cls: "lo", text: (w) => w.backend, sort: (w) => w.backend },
      { id: "waited", label: "Waited", cls: "num", text: (w) => seconds(w.waited_s), sort: (w) => -w.waited_s },
      { id: "starts", label: "Starts in", cls: "num", text: (w) => (w.estimated_start ? "~ " + seconds(startsIn(w)) : "not known"), sort: startsIn },
      { id: "why", label: "Why it waits", cls: "wide", wide: true, text: (w) => (w.strict ? "strict; " : "") + w.says },
      { id: "by", label: "In the way", cls: "wide half lo", wide: true, text: blockers },
      { id: "acts", label: "", cls: "acts", draw: (td, w) => acted(td, [["cancel", w.id, "Cancel"]]) },
    ],
  });
  tables.running = new Table($("running-t"), {
    label: "Running requests", key: (r) => r.id, empty: "Nothing runs.", open: (r) => openRun(model.runs.get(r.id) || { grant: r.id, ...r, start: rel(r.started), asked: rel(r.started) - r.waited_s * 1000, end: null }),
    columns: [
      { id: "id", label: "Request", text: (r) => String(r.id), sort: (r) => r.id },
      classCell,
      { id: "backend", label: "Backend", text: name, sort: name },
      { id: "for", label: "Runs for", cls: "num", text: (r) => seconds(r.elapsed_s), sort: (r) => -r.elapsed_s },
      { id: "end", label: "Ends in", cls: "num", text: (r) => (r.estimated_end ? "~ " + seconds(Math.max(0, (rel(r.estimated_end) - now()) / 1000)) : "–"), sort: (r) => r.estimated_end || "" },
      { id: "acts", label: "", cls: "acts", draw: (td, r) => acted(td, [["release", r.id, "Release"]]) },
    ],
  });
  tables.backends = new Table($("backends-t"), {
    label: "Backends", key: (b) => b.key, empty: "No backend is configured.", open: openBackend,
    columns: [
      { id: "name", label: "Backend", text: (b) => b.name, sort: (b) => b.name },
      { id: "gpu", label: "GPU", text: (b) => b.gpus, sort: (b) => b.gpus },
      { id: "state", label: "Residency", sort: (b) => b.state, draw: (td, b) => badge(td, b.state, { asleep: "quiet", failed: "bad", unloading: "warn", draining: "warn", loading: "warn" }[b.state] || "good") },
      { id: "breaker", label: "Breaker", sort: (b) => b.breaker, draw: (td, b) => badge(td, b.breaker + (b.open > 0 ? ` ${seconds(b.open)}` : ""), b.breaker === "closed" ? "quiet" : b.breaker === "open" ? "bad" : "warn") },
      { id: "running", label: "Runs", cls: "num", text: (b) => b.running + (b.slots ? ` / ${b.slots}` : ""), sort: (b) => -b.running },
      { id: "booked", label: "Booked", cls: "num", text: (b) => bytes(b.booked), sort: (b) => -b.booked },
      { id: "retained", label: "Retained", cls: "num lo", text: (b) => bytes(b.retained), sort: (b) => -b.retained },
      { id: "resident", label: "Declared → measured", cls: "lo", text: (b) => b.resident || "–" },
      { id: "beside", label: "Slower beside others", cls: "lo", text: (b) => b.beside || "–" },
      { id: "note", label: "Notes", cls: "wide lo", wide: true, text: (b) => b.note },
      { id: "acts", label: "", cls: "acts", draw: (td, b) => acted(td, b.acts) },
    ],
  });
  tables.requests = new Table($("requests-t"), {
    label: "Last requests", key: (q) => q.trace_id + q.ended, empty: "No request has ended yet.", open: openRequest,
    columns: [
      { id: "when", label: "Ended", text: (q) => clock(q.ms), draw: (td, q) => { if (td.ms !== q.ms) td.title = utc((td.ms = q.ms)); }, sort: (q) => -q.ms },
      classCell,
      { id: "backend", label: "Backend", text: (q) => (q.backend ? name(q) : "–"), sort: name },
      { id: "path", label: "Path", cls: "wide lo", wide: true, text: (q) => `${q.method} ${q.path}` },
      { id: "wait", label: "Waited", cls: "num", text: (q) => seconds(q.wait_s), sort: (q) => -q.wait_s },
      { id: "ran", label: "Ran", cls: "num", text: (q) => seconds(q.execute_s), sort: (q) => -q.execute_s },
      { id: "result", label: "Result", sort: (q) => q.result, draw: (td, q) => badge(td, q.code ? q.code.replaceAll("_", " ") : q.result + (q.status >= 400 ? ` ${q.status}` : ""), q.result === "ok" ? "quiet" : q.result === "failed" ? "bad" : "warn") },
      { id: "trace", label: "Trace", cls: "lo", draw: drawTrace },
    ],
  });
  tables.log = new Table($("log-t"), {
    label: "What happened", key: (d) => d.n, empty: "Nothing has happened but requests.",
    columns: [
      { id: "when", label: "When", text: (d) => clock(d.ms), draw: (td, d) => { if (td.ms !== d.ms) td.title = utc((td.ms = d.ms)); } },
      { id: "what", label: "What", cls: "wide all", wide: true, text: (d) => sayDecision(d).join(" · ") },
    ],
  });
  tables.learned = new Table($("learned-t"), {
    label: "Declared and measured figures of routes", key: (r) => r.route + r.declared_bytes, empty: "Nothing has been learned yet.",
    columns: [
      { id: "route", label: "Route", text: (r) => r.route, sort: (r) => r.route },
      { id: "declared", label: "Declared", cls: "num", text: (r) => (r.learn ? "learn" : bytes(r.declared_bytes)), sort: (r) => -r.declared_bytes },
      { id: "measured", label: "Measured", cls: "num", text: (r) => (r.measured_bytes === null ? "–" : bytes(r.measured_bytes)), sort: (r) => -(r.measured_bytes ?? 0) },
      { id: "booked", label: "Booked", cls: "num", text: (r) => (r.unknown ? "unknown" : bytes(r.booked_bytes)), sort: (r) => -r.booked_bytes },
      { id: "time", label: "Time, median", cls: "num", text: (r) => (r.p50_s === null ? (r.estimate_s ? `${seconds(r.estimate_s)} est.` : "–") : seconds(r.p50_s)), sort: (r) => -(r.p50_s ?? 0) },
      { id: "runs", label: "Runs", cls: "num lo", text: (r) => count(r.runs), sort: (r) => -r.runs },
      { id: "hint", label: "Rests on", cls: "wide lo", wide: true, text: (r) => [r.evidence.replaceAll("_", " "), ...r.hints].join("; ") },
      { id: "acts", label: "", cls: "acts", draw: (td, r) => acted(td, [["forget", r.route, "Forget"]]) },
    ],
  });
}

function drawTrace(td, q) {
  if (td.trace === q.trace_id) return;
  td.trace = q.trace_id;
  const link = traceLink(q.trace_id);
  if (link?.href) link.textContent = "open ↗";
  td.replaceChildren(link?.href ? link : (link || "").slice(0, 8));
  td.title = q.trace_id;
}

function badge(td, text, kind) {
  const key = kind + text;
  if (td.badge === key) return;
  td.badge = key;
  td.replaceChildren(el("span", "badge " + kind, text));
}

// besides are how much slower a backend's routes are beside the work of other classes.
function besides(backend) {
  const all = new Map();
  for (const r of model.learned?.routes || []) {
    if (r.backend !== backend) continue;
    const alone = r.beside?.find((b) => !b.class);
    for (const b of r.beside || []) if (alone && b.class && alone.p50_s > 0) all.set(b.class, Math.max(all.get(b.class) || 0, b.p50_s / alone.p50_s));
  }
  return [...all].map(([c, x]) => `× ${x.toFixed(2)} beside ${c}`).join(", ");
}

function rowsOfBackends() {
  const rows = [];
  for (const b of [...model.state.backends].sort((x, y) => (model.weight.get(y.name) || 0) - (model.weight.get(x.name) || 0) || x.name.localeCompare(y.name, "en", { numeric: true }))) {
    b.replicas.forEach((r, i) => {
      const of = b.accounts.filter((a) => a.replica === r.replica), sum = (f) => of.reduce((n, a) => n + f(a), 0);
      const seen = (model.learned?.residents || []).filter((x) => x.backend === b.name && x.replica === r.replica);
      const resident = seen.map((x) => `${x.declared_bytes === null ? "learn" : bytes(x.declared_bytes)} → ${x.seen_bytes === null ? "–" : bytes(x.seen_bytes)}`).join(", ");
      const note = [b.draining && "takes no new work", !b.available && "unavailable", !r.healthy && "health check fails", b.pinned && "pinned", r.swaps && `${r.swaps} unloads`, r.note, seen.map((x) => x.hint).filter(Boolean).join("; ")].filter(Boolean).join(" · ");
      const acts = i ? [] : [
        b.draining ? ["undrain", b.name, "Resume"] : ["drain", b.name, "Drain"],
        ...(b.reclaims ? [["unload", b.name, "Unload"]] : []),
        ...(b.reclaims || r.residency === "asleep" || r.residency === "failed" ? [["wake", b.name, "Wake"]] : []),
        ...(b.replicas.some((x) => x.breaker !== "closed") ? [["breaker", b.name, "Reset breaker"]] : []),
      ];
      rows.push({ key: b.name + "/" + r.replica, name: b.replicas.length > 1 ? `${b.name}/${r.replica}` : b.name, gpus: of.map((a) => a.gpu).join(", ") || "–", state: r.residency || "–", breaker: r.breaker, open: r.open_for_s,
        running: i ? "" : b.running, slots: i ? 0 : b.slots, booked: sum((a) => a.booked_bytes), retained: sum((a) => a.retained_bytes), resident, beside: i ? "" : besides(b.name), note, acts, b, r, of });
    });
  }
  return rows;
}

function openBackend(x) {
  const holds = x.of.map((a) => `${a.gpu}: ${bytes(a.booked_bytes)} booked, ${bytes(a.running_bytes)} running, ${bytes(a.retained_bytes)} retained, ${a.exact ? "as the driver says" : `between ${bytes(a.low_bytes)} and ${bytes(a.high_bytes)}`}`).join("; ");
  details(`Backend ${x.name}`, [["URL", x.r.url], ["Residency", x.state], ["Since", x.r.since && clock(rel(x.r.since))], ["Breaker", x.breaker], ["Healthy", x.r.healthy ? "yes" : "no"], ["Memory", holds], ["Resident, declared → measured", x.resident],
    ["Slower beside others", x.beside], ["Unloads", count(x.r.swaps)], ["Failures in a row", x.r.failures || ""], ["Left alone until", x.r.not_before && clock(rel(x.r.not_before))], ["Notes", x.note]], x.acts);
}

const tiles = new Map();

function drawClasses() {
  const at = $("classes"), list = model.state.classes;
  if (tiles.size !== list.length || list.some((c) => !tiles.has(c.name))) {
    tiles.clear();
    at.replaceChildren(...list.map((c) => {
      const t = { root: el("div", "tile"), name: el("h2"), slots: el("div", "slots"), runs: el("dd"), queued: el("dd"), oldest: el("dd"), acts: el("div", "acts") };
      t.slots.setAttribute("role", "img");
      const stat = (text, dd) => el("div", "", el("dt", "", text), dd);
      t.root.append(t.name, el("dl", "", stat("running", t.runs), stat("waiting", t.queued), stat("oldest", t.oldest)), t.slots, t.acts);
      tiles.set(c.name, t);
      return t.root;
    }));
  }
  for (const c of list) {
    const t = tiles.get(c.name), colour = theme.colour(model.classColour.get(c.name) ?? 9);
    dyed(t.name, c.name, model.classColour.get(c.name));
    set(t.runs, `${count(c.running)} / ${count(c.slots)}`);
    set(t.queued, count(c.queued));
    set(t.oldest, c.queued ? seconds(c.oldest_wait_s) : "–");
    t.root.classList.toggle("paused", c.paused);
    t.slots.setAttribute("aria-label", `${c.running} of ${c.slots} slots`);
    const dots = Math.min(32, Math.max(1, c.slots));
    while (t.slots.childElementCount < dots) t.slots.append(el("i"));
    while (t.slots.childElementCount > dots) t.slots.lastChild.remove();
    const on = Math.ceil((c.running * dots) / Math.max(1, c.slots));
    [...t.slots.children].forEach((i, k) => (i.style.backgroundColor = k < on ? colour : ""));
    acted(t.acts, [c.paused ? ["resume", c.name, "Resume"] : ["pause", c.name, "Pause"]]);
  }
}

function drawLegend() {
  const at = $("legend"), classes = [...model.classColour.keys()].filter((c) => model.state.classes.some((x) => x.name === c));
  const key = theme.name + classes.join();
  if (at.key === key) return;
  at.key = key;
  const sign = (cls, text, sign = "") => el("span", "", el("i", "sign " + cls, sign), text);
  at.replaceChildren(...classes.slice(0, 8).map((c) => el("span", "", swatch(model.classColour.get(c)), c)), sign("wait", "waits"), sign("passed", "passed others", "▸"), sign("move", "load, unload"), sign("full", "out of memory", "✕"));
}

// ---- What is drawn when.

let gantt, drawnVersion = -1;

function drawHead() {
  const s = model.state, badges = [];
  if (s.mode === "observe") badges.push(el("span", "badge warn", "observe: nothing is held back"));
  if (s.draining) badges.push(el("span", "badge bad", "draining"));
  if (model.session && !mayAct()) badges.push(el("span", "badge quiet", "read only"));
  const key = badges.map((b) => b.textContent).join();
  if ($("badges").key !== key) {
    $("badges").key = key;
    $("badges").replaceChildren(...badges);
  }
  const waiting = s.classes.reduce((n, c) => n + c.queued, 0), title = waiting ? `${count(waiting)} waiting · Anteroom` : "Anteroom";
  if (document.title !== title) document.title = title;
  moment($("clock"), now());
    set($("foot"), `Anteroom ${model.session?.version || ""} · up ${seconds((now() - Date.parse(s.started)) / 1000)} · times are your zone's, ${Intl.DateTimeFormat().resolvedOptions().timeZone}; hover for UTC`);
}

function drawLink() {
  if (document.hidden) return;
  const silent = performance.now() - model.heard;
  const link = model.link === "lost" ? "lost" : !model.state ? "loading" : silent > LOST ? "lost" : silent > STALE ? "stale" : "live";
  document.body.dataset.link = link;
  const at = model.state ? clock(rel(model.state.at)) : "";
  set($("link"), { loading: "loading", live: "live", stale: `stale for ${seconds(silent / 1000)}`, lost: "disconnected" }[link]);
  const says = { lost: model.state ? `The connection to Anteroom is lost. What you see is of ${at}. The page tries again.` : "Anteroom does not answer. The page tries again.", stale: "" }[link] || "";
  $("banner").hidden = !says;
  set($("banner"), says);
}

pieces.set("head", drawHead);
pieces.set("classes", drawClasses);
pieces.set("timeline", () => {
  drawLegend();
  if (!seen.has("timeline")) return;
  gantt.draw();
  drawnVersion = model.version;
});
pieces.set("memory", () => {
  if (!seen.has("memory")) return;
  model.card = model.state.gpus.some((g) => g.name === model.card) ? model.card : model.state.gpus[0]?.name;
  drawCards((name) => { model.card = name; draw("memory"); });
  draw("chart");
});
pieces.set("chart", () => { if (seen.has("memory")) drawMemory($("memory-chart"), gantt.from / 1000, gantt.to / 1000); });
pieces.set("queue", () => {
  const all = model.state.classes.reduce((n, c) => n + c.queued, 0), rows = everyWaiter || model.state.waiting;
  set($("queue-n"), all ? (rows.length < all ? `${count(rows.length)} of ${count(all)}` : count(all)) : "");
  $("queue-all").hidden = !everyWaiter && rows.length >= all;
  if (seen.has("queue")) tables.queue.update(rows);
});
pieces.set("running", () => {
  set($("running-n"), model.state.running.length ? count(model.state.running.length) : "");
  if (seen.has("running")) tables.running.update(model.state.running);
});
pieces.set("backends", () => {
  set($("backends-n"), count(model.state.backends.length));
  if (seen.has("backends")) tables.backends.update(rowsOfBackends());
});
pieces.set("requests", () => {
  set($("requests-n"), model.requests.length ? count(Math.min(1000, model.requests.length)) : "");
  if (seen.has("requests")) tables.requests.update(model.requests.slice(-1000).reverse());
});
pieces.set("log", () => { if (seen.has("log")) tables.log.update(model.decisions.slice().reverse()); });
pieces.set("learned", () => { if (model.learned && seen.has("learned")) tables.learned.update(model.learned.routes); });
pieces.set("waits", () => { if (seen.has("waits") && model.compare) drawWaits($("waits-chart"), $("compare")); });

const all = ["head", "classes", "timeline", "memory", "queue", "running", "backends", "requests", "log", "learned", "waits"];
const often = ["head", "classes", "timeline", "memory", "queue", "running", "backends"];

// ---- Talking to the admin API.

const get = async (path) => (await call(path)).json();

// quietly asks for something that the page can do without for a while.
async function quietly(does) {
  if (document.hidden) return;
  try {
    await does();
  } catch (error) {
    if (error.status === 401) restart();
  }
}

const learn = () => quietly(async () => { model.learned = await get("/api/learned"); draw("learned", "backends"); });
const compare = () => quietly(async () => {
  if (!seen.has("waits") || !model.state) return;
  compared = performance.now();
  try {
    model.compare = await get("/api/compare?for=10m");
  } catch (error) {
    if (error.status !== 422) throw error;
    model.compare = { error: error.message };
  }
  draw("waits");
});
const configure = () => quietly(async () => { weigh(await get("/api/config")); draw(...all); });
const listAll = () => quietly(async () => { if (everyWaiter) { everyWaiter = (await get("/api/queue?limit=1000")).waiting; draw("queue"); } });

let source, away, decisions = 0;

// listen opens the one stream. The browser opens it again when it breaks.
function listen() {
  source?.close();
  source = new EventSource("/api/events?for=10m&state=1s");
  const on = (kind, then) => source.addEventListener(kind, (e) => {
    const v = JSON.parse(e.data);
    if (kind === "state" && model.state && v.started !== model.state.started) return listen(); // another process
    handlers[kind](v, Number(e.lastEventId));
    if (e.lastEventId) model.seen = Number(e.lastEventId);
    then?.(v);
  });
  on("snapshot", () => { model.link = "live"; configure(); learn(); draw(...all, "link"); });
  on("state", () => { model.link = "live"; draw(...often); drawLink(); });
  on("request", () => draw("requests"));
  on("decision", (d) => {
    d.n = ++decisions;
    if (d.kind !== "granted") draw("log");
    if (d.kind === "reload" && !d.failed) configure();
  });
  on("sample");
  source.onopen = () => { model.link = model.state ? "live" : "loading"; };
  source.onerror = () => {
    model.link = "lost";
    drawLink();
    if (source.readyState === EventSource.CLOSED) setTimeout(restart, 2000); // it was refused
  };
}

// meet asks who this is, and what time it is there. It also makes a cookie last.
async function meet() {
  const began = Date.now();
  model.session = await get("/api/session");
  model.offset = Date.parse(model.session.at) - (began + Date.now()) / 2;
}

let starting = false;

// restart finds out who this is, asks for the token where one is wanted, and listens.
async function restart() {
  if (starting) return;
  starting = true;
  source?.close();
  for (;;) {
    try {
      await meet();
      break;
    } catch (error) {
      if (error.status === 401) {
        await login();
        continue;
      }
      model.link = "lost";
      drawLink();
      await new Promise((r) => setTimeout(r, 2000));
    }
  }
  starting = false;
  $("reload").hidden = !mayAct();
  $("out").hidden = !model.session.token;
  if (!model.session.events) {
    $("banner").hidden = false;
    return set($("banner"), "No history is kept here, so there are no events to show: set telemetry.history.for above 0s.");
  }
  listen();
}

// ---- Theme, keys, and the rest.

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(choice) {
  choice === "system" ? localStorage.removeItem("theme") : localStorage.setItem("theme", choice);
  theme.name = choice === "system" ? (dark.matches ? "dark" : "light") : choice;
  document.documentElement.dataset.theme = theme.name;
  $("theme").setAttribute("aria-label", `Theme: ${choice}`);
  $("theme").title = `Theme: ${choice}`;
  set($("theme"), { system: "◐", light: "☀", dark: "☾" }[choice]);
  draw(...all);
}
const chosen = () => localStorage.getItem("theme") || "system";

function wire() {
  setTheme(chosen());
  dark.addEventListener("change", () => setTheme(chosen()));
  $("theme").addEventListener("click", () => setTheme({ system: "light", light: "dark", dark: "system" }[chosen()]));
  $("reload").addEventListener("click", () => ask("reload"));
  $("out").addEventListener("click", async () => {
    source?.close();
    await call("/api/session", { method: "DELETE" }).catch((e) => toast(e.message));
    location.reload();
  });
  makeTables();
  const spans = [...document.querySelectorAll("[data-span]")];
  gantt = new Gantt($("gantt-canvas"), {
    open: (h) => (h.run ? openRun(h.run) : openWaiter(h.waiter)),
    moved: () => {
      $("live").setAttribute("aria-pressed", String(gantt.live));
      for (const b of spans) b.setAttribute("aria-pressed", String(gantt.span === b.dataset.span * 1000));
      draw("chart");
    },
  });
  for (const b of spans) b.addEventListener("click", () => gantt.choose(b.dataset.span * 1000));
  $("earlier").addEventListener("click", () => gantt.pan(-gantt.span / 4));
  $("later").addEventListener("click", () => gantt.pan(gantt.span / 4));
  $("zoom-in").addEventListener("click", () => gantt.zoom(0.6));
  $("zoom-out").addEventListener("click", () => gantt.zoom(1 / 0.6));
  $("live").addEventListener("click", () => gantt.toLive());
  $("queue-all").addEventListener("click", () => {
    everyWaiter = everyWaiter ? null : model.state.waiting;
    $("queue-all").setAttribute("aria-pressed", String(!!everyWaiter));
    set($("queue-all"), everyWaiter ? "Show the first of each class" : "Show 1,000");
    listAll();
    draw("queue");
  });
  for (const d of document.querySelectorAll("#details, #ask")) d.addEventListener("click", (e) => { if (e.target === d) d.close(); });
  for (const id of all) if ($(id)) watch.observe($(id));
  new ResizeObserver(() => draw("timeline", "chart", "waits")).observe($("main"));
  document.addEventListener("visibilitychange", () => {
    clearTimeout(away);
    // A browser has few connections to one server: a page that is not seen leaves its own.
    if (document.hidden) return void (away = setTimeout(() => { source?.close(); source = null; }, AWAY));
    if (!source && !starting) restart();
    working = false;
    draw(...all);
    learn();
    compare();
  });
  setInterval(drawLink, 1000);
  setInterval(learn, 15e3);
  setInterval(compare, 20e3);
  setTimeout(compare, 2500);
  setInterval(listAll, 3000);
  setInterval(() => quietly(meet), 600e3);
}

// For tests, and for the curious: what the page knows and draws.
globalThis.anteroom = { model, tables, get gantt() { return gantt; }, version: () => drawnVersion };

wire();
restart();
