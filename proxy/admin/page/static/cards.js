// Memory by owner: a bar for each card, and how it was in the last minutes.
import { model } from "./model.js";
import { $, el, set, bytes, seconds, theme, pale, clock, count } from "./format.js";

const GiB = 2 ** 30;

// owners are those who hold a card's memory, as parts of its capacity: backends with what
// runs and what is retained, processes of no backend, and what nobody is known to hold.
function owners(g) {
  const parts = [];
  for (const b of model.state.backends) {
    const colour = model.backendColour.get(b.name) ?? 9;
    for (const a of b.accounts) {
      if (a.gpu !== g.name || !(a.booked_bytes > 0)) continue;
      const name = a.replica ? `${b.name}/${a.replica}` : b.name;
      const runs = a.booked_bytes - a.retained_bytes;
      if (runs > 0) parts.push({ key: name + " runs", name, what: "running", bytes: runs, colour });
      if (a.retained_bytes > 0) parts.push({ key: name + " rests", name, what: "retained", bytes: a.retained_bytes, colour, kept: true });
    }
  }
  let left = g.unmanaged_bytes;
  for (const p of [...(g.processes || [])].filter((p) => !p.backend && p.used_bytes > 0).sort((a, b) => b.used_bytes - a.used_bytes).slice(0, 4)) {
    const n = Math.min(left, p.used_bytes);
    if (n <= 0) continue;
    left -= n;
    parts.push({ key: "p" + p.pid, name: `${p.name} (PID ${p.pid})`, what: "unmanaged", bytes: n, other: true });
  }
  if (left > 0) parts.push({ key: "others", name: parts.some((p) => p.other) ? "other processes" : "of no backend", what: "unmanaged", bytes: left, other: true });
  if (g.unattributed_bytes > 0) parts.push({ key: "doubt", name: "unattributed", what: "not known whose", bytes: g.unattributed_bytes, doubt: true });
  return parts;
}

const configured = (gpu) => model.config?.gpus?.[gpu]?.device;

function state(g) {
  const mig = String(configured(g.name) ?? "").startsWith("MIG-") ? "MIG, " : "";
  if (g.lost) return mig + "lost";
  if (g.error) return mig + "ledger alone: " + g.error;
  if (!g.source || !g.observed_at) return mig + "ledger alone, not read";
  const age = Math.max(0, (Date.parse(model.state.at) - Date.parse(g.observed_at)) / 1000);
  return `${mig}${g.source}, read ${age < 1 ? "just now" : seconds(age) + " ago"}${g.stale ? ", stale" : ""}`;
}

const cards = new Map();

export function drawCards(select) {
  const at = $("cards"), list = model.state.gpus;
  if (!list.length) return at.replaceChildren(el("p", "empty", "No GPU is configured."));
  at.classList.toggle("many", list.length > 2);
  if (cards.size !== list.length || list.some((g) => !cards.has(g.name))) {
    cards.clear();
    at.replaceChildren(...list.map((g) => {
      const c = { root: el("div", "card"), name: el("button", "name", g.name), state: el("span", "soft"), free: el("span", "free"), bar: el("div", "bar"), legend: el("ul", "owners"), parts: new Map() };
      c.name.type = "button";
      c.name.addEventListener("click", () => select(g.name));
      c.bar.setAttribute("role", "img");
      c.limit = el("i", "limit");
      c.reserve = el("i", "reserve");
      c.bar.append(c.reserve, c.limit);
      c.root.append(el("div", "line", c.name, c.state, el("span", "spacer"), c.free), c.bar, c.legend);
      cards.set(g.name, c);
      return c.root;
    }));
  }
  for (const g of list) drawCard(cards.get(g.name), g);
}

function drawCard(c, g) {
  const parts = owners(g), total = Math.max(1, g.capacity_bytes), share = (n) => (100 * n) / total;
  set(c.state, state(g));
  c.state.className = g.lost || g.stale || g.error ? "soft warn" : "soft";
  set(c.free, `${bytes(Math.max(0, g.available_bytes))} of ${bytes(g.capacity_bytes)} available`);
  c.free.className = g.available_bytes < 0 ? "free warn" : "free";
  c.name.setAttribute("aria-pressed", String(model.card === g.name));
  const seen = new Set();
  let from = 0;
  parts.forEach((p) => {
    seen.add(p.key);
    let x = c.parts.get(p.key);
    if (!x) {
      x = { seg: el("i"), item: el("li", "", el("i", "swatch"), el("span")) };
      c.parts.set(p.key, x);
      c.bar.append(x.seg);
    }
    const colour = p.other ? theme.ink.other : p.doubt ? theme.ink.doubt : theme.colour(p.colour);
    x.seg.className = p.kept ? "kept" : p.doubt ? "doubt" : "";
    x.seg.style.left = share(from) + "%";
    x.seg.style.width = Math.max(0, Math.min(100 - share(from), share(p.bytes))) + "%";
    x.seg.style.backgroundColor = p.kept ? pale(colour, 0.42) : colour;
    x.seg.title = `${p.name}: ${bytes(p.bytes)} ${p.what}`;
    x.item.firstChild.style.backgroundColor = x.seg.style.backgroundColor;
    set(x.item.lastChild, p.doubt ? `unattributed ${bytes(p.bytes)}` : p.other ? `${p.name} ${bytes(p.bytes)}` : `${p.name} ${bytes(p.bytes)} ${p.what}`);
    c.legend.append(x.item);
    from += p.bytes;
  });
  for (const [key, x] of c.parts) {
    if (seen.has(key)) continue;
    x.seg.remove();
    x.item.remove();
    c.parts.delete(key);
  }
  c.reserve.style.left = c.limit.style.left = 100 - share(g.reserve_bytes) + "%";
  c.reserve.title = `reserve: ${bytes(g.reserve_bytes)}, never given out`;
  c.bar.setAttribute("aria-label", `${g.name}: ${parts.map((p) => `${p.name} ${bytes(p.bytes)} ${p.what}`).join(", ") || "nothing is booked"}; ${bytes(g.reserve_bytes)} reserve; ${bytes(Math.max(0, g.available_bytes))} available`);
}

// stacks are the memory of a card over time: a line for each owner on top of those below.
function stacks(gpu) {
  const names = new Map(), rows = [];
  for (const s of model.samples) {
    const g = s.gpus.find((x) => x.name === gpu);
    if (!g) continue;
    const row = { at: s.ms / 1000, limit: g.capacity_bytes - g.reserve_bytes, capacity: g.capacity_bytes, of: new Map() };
    for (const o of g.owners) {
      const name = o.replica ? `${o.backend}/${o.replica}` : o.backend;
      for (const [kind, n] of [["retained", o.retained_bytes], ["running", o.booked_bytes - o.retained_bytes]]) {
        row.of.set(name + " " + kind, n);
        if (n > 0 && !names.has(name + " " + kind)) names.set(name + " " + kind, { name, kind, colour: model.backendColour.get(o.backend) ?? 9 });
      }
    }
    row.of.set("unmanaged", g.unmanaged_bytes);
    row.of.set("unattributed", g.unattributed_bytes);
    rows.push(row);
  }
  const order = [...names.entries()].sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(([key, v]) => ({ key, ...v }));
  order.push({ key: "unmanaged", name: "unmanaged", kind: "" }, { key: "unattributed", name: "unattributed", kind: "" });
  const xs = rows.map((r) => r.at), sums = new Array(rows.length).fill(0), series = [];
  for (const o of order) {
    rows.forEach((r, i) => (sums[i] += (r.of.get(o.key) || 0) / GiB));
    series.push({ ...o, ys: sums.slice() });
  }
  const limit = rows.map((r) => r.limit / GiB);
  return { xs, series: series.reverse(), limit, top: rows.length ? rows[rows.length - 1].capacity / GiB : 1 };
}

const fill = (s) => (s.key === "unmanaged" ? theme.ink.other : s.key === "unattributed" ? theme.ink.doubt : s.kind === "retained" ? pale(theme.colour(s.colour), 0.42) : theme.colour(s.colour));

let plot = null, shape = "";

export function axes(extra) {
  const ink = theme.ink, base = { stroke: ink.soft, font: "11px system-ui, sans-serif", grid: { stroke: ink.line, width: 1 }, ticks: { stroke: ink.line, width: 1, size: 4 } };
  return extra.map((a) => ({ ...base, ...a }));
}

export function drawMemory(at, from, to) {
  const s = stacks(model.card);
  set($("chart-h"), model.card ? `${model.card}, as it was booked, GiB` : "As it was booked");
  if (!s.xs.length) return void (at.firstChild || at.append(el("p", "empty", "Loading…")));
  const wanted = [theme.name, model.card, at.clientWidth, s.top, ...s.series.map((x) => x.key)].join();
  const data = [s.xs, ...s.series.map((x) => x.ys), s.limit];
  if (wanted !== shape || !plot) {
    plot?.destroy();
    at.replaceChildren();
    const stepped = uPlot.paths.stepped({ align: 1 });
    plot = new uPlot({
      width: at.clientWidth, height: at.clientHeight || 150, legend: { show: false }, cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { time: true, range: () => [plot?.from ?? from, plot?.to ?? to] }, y: { range: [0, s.top] } },
      axes: axes([{ values: (u, ticks) => ticks.map((t) => (to - from > 200 ? clock(t * 1000).slice(0, -3) : clock(t * 1000))), size: 24, space: 70 }, { values: (u, ticks) => ticks.map((t) => t + ""), size: 34, space: 28 }]),
      series: [{}, ...s.series.map((x) => ({ label: x.name + " " + x.kind, fill: fill(x), width: 0, points: { show: false }, paths: stepped })),
        { label: "limit", stroke: theme.ink.limit, width: 1.5, dash: [5, 4], points: { show: false }, paths: stepped }],
      hooks: { setCursor: [(u) => told(u, at)] },
    }, data, at);
    shape = wanted;
  }
  plot.from = from;
  plot.to = to;
  plot.setData(data);
}

// told says at the hover who held how much then.
function told(u, at) {
  const i = u.cursor.idx;
  if (i === null || i === undefined) return void (at.title = "");
  const lines = [clock(u.data[0][i] * 1000)];
  for (let k = 1; k < u.series.length - 1; k++) {
    const n = (u.data[k][i] - (k + 1 < u.series.length - 1 ? u.data[k + 1][i] : 0)) * GiB;
    if (n > 2 ** 20) lines.push(`${u.series[k].label.trim()}: ${bytes(n)}`);
  }
  lines.push(`limit: ${bytes(u.data[u.series.length - 1][i] * GiB)}`);
  at.title = lines.join("\n");
}

let curves = null;

// drawWaits draws the share of each class's requests that had started after each wait, as it
// was and as one queue would have had it.
export function drawWaits(at, table) {
  const c = model.compare;
  if (!c) return;
  if (c.error) {
    at.hidden = true;
    return table.replaceChildren(el("p", "empty", `This cannot be compared: ${c.error}`));
  }
  const classes = Object.keys(c.recorded).sort();
  if (!classes.length) {
    at.hidden = true;
    curves = null;
    return table.replaceChildren(el("p", "empty", "No request has ended in the last ten minutes."));
  }
  at.hidden = false;
  const tables = [], series = [{}], least = 0.01;
  for (const [of, dash] of [[c.recorded, null], [c.fifo, [4, 4]]]) {
    for (const name of classes) {
      const w = of[name]?.waits_s;
      if (!w) continue;
      const xs = [], ys = [];
      w.forEach((x, i) => {
        const at = Math.max(least, x);
        if (xs[xs.length - 1] === at) return void (ys[ys.length - 1] = (100 * i) / (w.length - 1));
        xs.push(at);
        ys.push((100 * i) / (w.length - 1));
      });
      tables.push([xs, ys]);
      series.push({ label: name, stroke: theme.colour(model.classColour.get(name) ?? 9), width: dash ? 1.5 : 2.5, dash: dash || undefined, spanGaps: true, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) });
    }
  }
  const data = uPlot.join(tables), last = data[0][data[0].length - 1];
  // Each curve goes on at its top to the right edge, and begins at the left one.
  const right = Math.max(1, last * 1.3), xs = data[0].concat(right);
  const full = data.slice(1).map((ys, k) => {
    const out = ys.concat(tables[k][1][tables[k][1].length - 1]);
    if (out[0] === null || out[0] === undefined) out[0] = 0;
    return out;
  });
  curves?.destroy();
  at.replaceChildren();
  curves = new uPlot({
    width: at.clientWidth, height: at.clientHeight || 200, legend: { show: false }, cursor: { show: false },
    scales: { x: { time: false, distr: 3, range: [least, right] }, y: { range: [0, 101] } },
    axes: axes([{ size: 26, values: (u, t) => t.map((x) => (x === null ? "" : x <= least ? "≤ 10 ms" : x < 1 ? seconds(x) : `${x} s`)), splits: () => [0.01, 0.1, 1, 10, 100, 1000, 10000] }, { values: (u, t) => t.map((x) => x + " %"), size: 48, space: 30 }]),
    series,
  }, [xs, ...full], at);
  const rows = classes.map((name) => {
    const a = c.recorded[name], b = c.fifo[name];
    const swatch = el("i", "swatch");
    swatch.style.backgroundColor = theme.colour(model.classColour.get(name) ?? 9);
    const p = (x, i) => (x ? seconds(x.waits_s[i]) : "–");
    return el("tr", "", el("th", "", swatch, name), el("td", "", count(a.started)), el("td", "", seconds(a.mean_s)), el("td", "", p(a, 45)), el("td", "", b ? seconds(b.mean_s) : "–"), el("td", "", p(b, 45)));
  });
  rows.forEach((r) => (r.firstChild.scope = "row"));
  const head = (t, n, scope) => { const th = el("th", "", t); th.colSpan = n; th.scope = scope; return th; };
  const t = el("table", "plain", el("thead", "", el("tr", "", head("", 1, "col"), head("", 1, "col"), head("waited ━", 2, "colgroup"), head("in one queue ┅", 2, "colgroup")),
    el("tr", "", head("class", 1, "col"), head("started", 1, "col"), head("mean", 1, "col"), head("90 %", 1, "col"), head("mean", 1, "col"), head("90 %", 1, "col"))), el("tbody", "", ...rows));
  const late = c.fifo_lasts_s > 1 ? ` One queue would have taken ${seconds(c.fifo_lasts_s)} longer for the same work.` : "";
  table.replaceChildren(t, el("p", "note", `${count(c.requests)} requests since ${clock(Date.parse(c.complete_since))}, played by the simulator of this program.${late}`));
}
