// What the page knows: one stream of events, put into runs with lanes, samples, and lists.
// Times are milliseconds of the server's clock.
import { paint } from "./format.js";

export const KEEP = 15 * 60e3;
const NEAR = 250; // a grant may be told this much before the end that made room for it
const MOST_REQUESTS = 1000, MOST_DECISIONS = 500, WAIT_ROWS = 6, MOST_LOOKED = 2000;

export const model = {
  session: null, config: null, state: null, learned: null, compare: null,
  link: "loading", // live, stale, lost
  heard: 0, // when the last state came, by performance.now()
  offset: 0, // of the server's clock
  shift: 0, // of the controller's clock
  lanes: new Map(), // by backend/replica
  runs: new Map(), // by grant, of all that are kept
  started: [], // runs in the order in which they started
  marks: [], // decisions for the timeline's top
  moves: [], // unloads and wakes
  samples: [], requests: [], decisions: [],
  classColour: new Map(), backendColour: new Map(), weight: new Map(), gpusOf: new Map(),
  version: 0, // of what the timeline shows
};

export const now = () => Date.now() + model.offset;
const time = (text) => Date.parse(text);
// rel is a moment that a state tells. In a simulated box that runs faster than time, the
// controller's clock is not that of the history: the state's own moment is now.
export const rel = (text) => time(text) + model.shift;
export const laneKey = (backend, replica) => backend + "/" + (replica || 0);

function lane(backend, replica) {
  const key = laneKey(backend, replica);
  let l = model.lanes.get(key);
  if (!l) model.lanes.set(key, (l = { key, backend, replica: replica || 0, slots: [], waits: [] }));
  return l;
}

// start opens a run in the first lane that is free. Grants come in the order of time.
function start(run) {
  const l = lane(run.backend, run.replica);
  let slot = l.slots.findIndex((s) => { const last = s[s.length - 1]; return !last || (last.end !== null && last.end <= run.start + NEAR); });
  if (slot < 0) slot = l.slots.push([]) - 1;
  run.slot = slot;
  run.lane = l;
  l.slots[slot].push(run);
  if (run.start - run.asked > 50) {
    let row = l.waits.findIndex((w) => w[w.length - 1].start <= run.asked);
    if (row < 0) row = l.waits.length < WAIT_ROWS ? l.waits.push([]) - 1 : run.grant % WAIT_ROWS;
    l.waits[row].push(run);
  }
  model.runs.set(run.grant, run);
  model.started.push(run);
  overtaken(run.asked, run.start, run.grant, run.backend, run.replica);
  model.version++;
}

// gpus are those of a replica.
export const gpus = (backend, replica) => model.gpusOf.get(laneKey(backend, replica)) || [];
const sharesGPU = (a, b) => a.backend === b.backend || gpus(a.backend, a.replica).some((g) => gpus(b.backend, b.replica).includes(g));

// overtaken marks the runs that asked after a request and started before it.
function overtaken(asked, start, grant, backend, replica) {
  const waiter = { backend, replica };
  for (let i = model.started.length - 1, n = 0; i >= 0 && n < MOST_LOOKED; i--, n++) {
    const r = model.started[i];
    if (r.start < asked) break;
    if (r.asked > asked && r.start < start && r.grant !== grant && sharesGPU(r, waiter)) r.overtook = true;
  }
}

// overtakes are those that a run has overtaken: [{grant, asked, start}].
export function overtakes(run) {
  const found = model.started.filter((q) => q.asked < run.asked && q.start > run.start && sharesGPU(q, run));
  for (const w of model.state?.waiting || []) {
    const asked = rel(w.arrived);
    if (asked < run.asked && sharesGPU({ backend: w.backend, replica: 0 }, run)) found.push({ grant: w.id, class: w.class, backend: w.backend, asked, start: null });
  }
  return found;
}

// end closes a run. What was granted because of it may stand in a slot further down: its
// grant was told first. It moves up.
function end(run, at) {
  run.end = at;
  model.version++;
  const { slots } = run.lane;
  if (slots[run.slot][slots[run.slot].length - 1] !== run) return;
  let next = null;
  for (let i = run.slot + 1; i < slots.length; i++) {
    const last = slots[i][slots[i].length - 1];
    if (last && last.start >= at - NEAR && (!next || last.start < next.start)) next = last;
  }
  if (!next) return;
  slots[next.slot].pop();
  next.slot = run.slot;
  slots[run.slot].push(next);
  while (slots.length > 1 && !slots[slots.length - 1].length) slots.pop();
}

const bySpan = (list, key, before) => {
  let n = 0;
  while (n < list.length && list[n][key] !== null && list[n][key] < before) n++;
  if (n) list.splice(0, n);
};

export const handlers = {
  snapshot(s, id) {
    if (model.state && (s.started !== model.state.started || id < model.seen)) forget();
    handlers.state(s, true); // what runs is told again when what was before has been
  },
  state(s, first) {
    model.shift = now() - time(s.at);
    if (Math.abs(model.shift) < 2000) model.shift = 0;
    const at = rel(s.at);
    model.state = s;
    model.heard = performance.now();
    for (const b of s.backends) {
      for (const r of b.replicas) {
        model.gpusOf.set(laneKey(b.name, r.replica), b.accounts.filter((a) => a.replica === r.replica).map((a) => a.gpu));
        lane(b.name, r.replica);
      }
    }
    if (first) return;
    const running = new Set();
    for (const r of s.running) {
      running.add(r.id);
      let run = model.runs.get(r.id);
      if (!run) {
        const from = rel(r.started);
        start((run = { grant: r.id, class: r.class, backend: r.backend, replica: r.replica, start: from, asked: from - r.waited_s * 1000, end: null }));
      }
      run.expected = r.estimated_end ? rel(r.estimated_end) : null;
      run.vram = r.vram_bytes;
      run.tenant = r.tenant;
      if (run.end !== null) run.end = null;
    }
    for (const l of model.lanes.values()) {
      for (const slot of l.slots) {
        const last = slot[slot.length - 1];
        if (last && last.end === null && !running.has(last.grant) && last.start < at - 500) end(last, at); // its end was not told
      }
    }
    for (const w of s.waiting.slice(0, 20)) overtaken(rel(w.arrived), Infinity, w.id, w.backend, 0);
    model.version++;
  },
  decision(d) {
    const at = time(d.at);
    d.ms = at;
    if (d.kind === "granted") {
      if (!model.runs.has(d.grant)) {
        start({ grant: d.grant, class: d.class, backend: d.backend, replica: d.replica, start: at, asked: at - d.wait_s * 1000, end: null, trace: d.trace_id, reason: d.reason });
      } else {
        model.runs.get(d.grant).trace = d.trace_id;
      }
      return;
    }
    if (d.kind === "unload" || d.kind === "wake") {
      model.moves.push({ start: at - d.took_s * 1000, end: at, d });
    } else {
      model.marks.push({ at, d });
    }
    if (d.kind === "out_of_memory" && model.runs.has(d.grant)) model.runs.get(d.grant).full = true;
    model.decisions.push(d);
    if (model.decisions.length > MOST_DECISIONS) model.decisions.splice(0, model.decisions.length - MOST_DECISIONS);
    model.version++;
  },
  request(r) {
    r.ms = time(r.ended);
    model.requests.push(r);
    if (model.requests.length > 1.2 * MOST_REQUESTS) model.requests.splice(0, model.requests.length - MOST_REQUESTS);
    if (!r.grant || r.execute_s < 0) return;
    let run = model.runs.get(r.grant);
    if (!run) {
      const from = r.ms - r.execute_s * 1000;
      start((run = { grant: r.grant, class: r.class, backend: r.backend, replica: r.replica, start: from, asked: from - Math.max(0, r.wait_s) * 1000, end: null }));
    }
    Object.assign(run, { request: r, trace: r.trace_id, result: r.result, code: r.code, vram: r.vram_bytes });
    if (r.code === "out_of_memory") run.full = true;
    end(run, r.ms);
  },
  sample(s) {
    s.ms = time(s.at);
    model.samples.push(s);
    if (model.samples.length % 30 === 0) prune();
  },
};

function prune() {
  const before = now() - KEEP;
  bySpan(model.samples, "ms", before);
  bySpan(model.marks, "at", before);
  bySpan(model.moves, "end", before);
  for (const l of model.lanes.values()) {
    for (const slot of l.slots) {
      for (const r of slot) {
        if (r.end === null || r.end >= before) break;
        model.runs.delete(r.grant);
      }
      bySpan(slot, "end", before);
    }
    while (l.slots.length > 1 && !l.slots[l.slots.length - 1].length) l.slots.pop();
    for (const w of l.waits) bySpan(w, "start", before);
    l.waits = l.waits.filter((w) => w.length);
  }
  bySpan(model.started, "start", before);
}

// forget drops what another process has told.
function forget() {
  model.lanes.clear();
  model.runs.clear();
  for (const list of [model.started, model.marks, model.moves, model.samples, model.requests, model.decisions]) list.length = 0;
}

const units = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30, TIB: 2 ** 40 };
const gibOf = (v) => {
  const m = /^([\d.]+)\s*([KMGT]?i?B)?$/i.exec(v ?? "");
  return m ? (m[1] * (units[(m[2] || "B").toUpperCase()] || 1)) / 2 ** 30 : 0;
};
const secondsOf = (v) => {
  let s = 0;
  for (const [, n, u] of String(v ?? "").matchAll(/([\d.]+)(ms|h|m|s)/g)) s += n * { ms: 0.001, s: 1, m: 60, h: 3600 }[u];
  return s;
};

// weigh gives classes and backends their colours and their order: what takes most memory for
// longest is the heaviest.
export function weigh(config) {
  model.config = config;
  const classes = new Map(), backends = new Map();
  for (const [name, c] of Object.entries(config?.classes || {})) {
    if (name !== "*") classes.set(name, (secondsOf(c.estimate) || 1) * (0.1 + gibOf(c.vram)));
  }
  for (const [name] of Object.entries(config?.backends || {})) if (name !== "*") backends.set(name, 0);
  for (const r of config?.routes || []) {
    if (r.backend && r.class) backends.set(r.backend, Math.max(backends.get(r.backend) || 0, classes.get(r.class) || 0));
  }
  for (const c of model.state?.classes || []) if (!classes.has(c.name)) classes.set(c.name, 0);
  for (const b of model.state?.backends || []) if (!backends.has(b.name)) backends.set(b.name, 0);
  model.classColour = paint(classes);
  model.backendColour = paint(backends);
  model.weight = backends;
  model.classWeight = classes;
  model.version++;
}

// byWeight sorts names, the heaviest last.
export const byWeight = (weights) => (a, b) => (weights.get(a) || 0) - (weights.get(b) || 0) || a.localeCompare(b, "en", { numeric: true });
