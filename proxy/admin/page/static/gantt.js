// The timeline: who ran in which slot, who waited meanwhile, and who passed whom.
import { model, now, rel, gpus, overtakes, byWeight, laneKey, KEEP } from "./model.js";
import { $, bytes, seconds, clock, theme, pale } from "./format.js";

const AXIS = 20, EVENTS = 14, AHEAD = 0.04, LEAST = 10e3, MOST = KEEP;

export class Gantt {
  constructor(canvas, { open, moved }) {
    Object.assign(this, { canvas, open, moved, span: 600e3, end: null, picked: null, at: null, groups: [], chosen: false });
    this.context = canvas.getContext("2d");
    this.listen();
  }

  get live() { return this.end === null; }
  get to() { return (this.end ?? now()) + this.span * AHEAD; }
  get from() { return this.to - this.span * (1 + AHEAD); }

  zoom(factor, about = this.live ? this.to : (this.from + this.to) / 2) {
    this.chosen = true;
    const span = Math.min(MOST, Math.max(LEAST, this.span * factor));
    if (!this.live) this.end = about + ((this.end - about) * span) / this.span;
    this.span = span;
    this.pan(0);
  }

  // fit takes the shortest stretch that shows all there is, until one is chosen.
  fit() {
    if (this.chosen || !model.started.length) return;
    const age = now() - model.started[0].asked, span = [60e3, 300e3].find((s) => age < s * 0.9) || 600e3;
    if (span === this.span) return;
    this.span = span;
    this.moved();
  }

  choose(span) {
    this.chosen = true;
    this.span = span;
    this.pan(0);
  }

  pan(ms) {
    const t = now();
    if (ms || !this.live) {
      const end = (this.end ?? t) + ms;
      this.end = end >= t ? null : Math.max(end, t - KEEP + this.span);
      if (this.end !== null && this.end >= t) this.end = null;
    }
    this.moved();
    this.draw();
  }

  toLive() {
    this.end = null;
    this.pan(0);
  }

  // layout gives each backend its lanes, below its GPU, the lightest first.
  layout(width, room) {
    const byGPU = new Map(), order = byWeight(model.weight);
    for (const l of model.lanes.values()) {
      const g = gpus(l.backend, l.replica).join(" + ") || "no GPU";
      if (!byGPU.has(g)) byGPU.set(g, []);
      byGPU.get(g).push(l);
    }
    const few = model.lanes.size <= 16, lanes = [...model.lanes.values()];
    const rowsOf = (l) => Math.max(few || l.waits.length ? 2 : 1, l.waits.length);
    const slots = lanes.reduce((n, l) => n + Math.max(1, l.slots.length), 0), rows = lanes.reduce((n, l) => n + rowsOf(l), 0);
    this.waitRow = few ? 6 : 4;
    // What room there is goes to the slots.
    const fixed = AXIS + EVENTS + 6 + byGPU.size * 20 + lanes.length * 6 + rows * this.waitRow;
    const slot = Math.max(6, Math.min(30, Math.floor((Math.max(room, 320) - fixed) / slots)));
    this.gutter = width < 600 ? 78 : 148;
    this.groups = [];
    let y = AXIS + EVENTS + 4;
    const names = [...byGPU.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    for (const gpu of names) {
      this.groups.push({ gpu, y, head: 16 });
      y += 16;
      for (const l of byGPU.get(gpu).sort((a, b) => order(a.backend, b.backend) || a.replica - b.replica)) {
        const n = Math.max(1, l.slots.length);
        const g = { lane: l, y, slot, runs: y + 2, waits: y + 3 + n * slot, height: n * slot + rowsOf(l) * this.waitRow + 6 };
        this.groups.push(g);
        y += g.height;
      }
      y += 4;
    }
    return y + 2;
  }

  x(ms) { return this.gutter + ((ms - this.from) / (this.to - this.from)) * (this.width - this.gutter); }
  when(x) { return this.from + ((x - this.gutter) / (this.width - this.gutter)) * (this.to - this.from); }

  draw() {
    const c = this.canvas, ratio = Math.min(3, devicePixelRatio || 1), width = c.parentNode.clientWidth;
    if (!width) return;
    this.fit();
    const height = Math.max(120, this.layout(width, c.parentNode.clientHeight));
    if (c.width !== Math.round(width * ratio) || c.height !== Math.round(height * ratio)) {
      c.width = Math.round(width * ratio);
      c.height = Math.round(height * ratio);
      c.style.height = height + "px";
    }
    this.width = width;
    const p = this.context, ink = theme.ink;
    p.setTransform(ratio, 0, 0, ratio, 0, 0);
    p.clearRect(0, 0, width, height);
    p.font = "11px system-ui, sans-serif";
    p.textBaseline = "middle";
    this.drawAxis(p, height, ink);
    this.hits = [];
    const colours = new Map();
    this.colour = (cls) => {
      if (!colours.has(cls)) {
        const full = theme.colour(model.classColour.get(cls) ?? 9);
        colours.set(cls, { full, pale: pale(full, 0.3), faint: pale(full, 0.14) });
      }
      return colours.get(cls);
    };
    const waiting = this.waitersByLane();
    p.save();
    for (const g of this.groups) g.head ? this.drawHead(p, g, ink) : this.drawLane(p, g, ink, waiting);
    this.drawMarks(p, ink);
    const at = this.x(now());
    if (at > this.gutter && at < width) {
      p.fillStyle = ink.accent;
      p.fillRect(Math.round(at), AXIS - 3, 1, height - AXIS);
    }
    if (this.shown()) this.drawOvertakes(p, this.shown(), ink);
    p.restore();
  }

  drawAxis(p, height, ink) {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300], room = this.width < 600 ? 64 : 84;
    const perPixel = (this.to - this.from) / (this.width - this.gutter);
    const step = (steps.find((s) => (s * 1000) / perPixel >= room) || 300) * 1000;
    for (let t = Math.ceil(this.from / step) * step; t < this.to; t += step) {
      const x = Math.round(this.x(t));
      p.fillStyle = ink.line;
      p.fillRect(x, AXIS - 2, 1, height);
      p.fillStyle = ink.soft;
      const text = clock(t), half = p.measureText(text).width / 2;
      if (x - half > this.gutter - 10 && x + half < this.width) p.fillText(text, x - half, 9);
    }
    p.fillStyle = ink.soft;
    p.fillText(this.width < 600 ? "events" : "what happened", 4, AXIS + EVENTS / 2);
  }

  drawHead(p, g, ink) {
    p.fillStyle = ink.line;
    p.fillRect(0, g.y + 8, this.width, 1);
    p.font = "600 11px system-ui, sans-serif";
    const w = p.measureText(g.gpu).width;
    p.fillStyle = ink.panel;
    p.fillRect(0, g.y, w + 10, 16);
    p.fillStyle = ink.text;
    p.fillText(g.gpu, 4, g.y + 8);
    p.font = "11px system-ui, sans-serif";
  }

  waitersByLane() {
    const by = new Map();
    for (const w of model.state?.waiting || []) {
      const key = laneKey(w.backend, 0);
      if (!by.has(key)) by.set(key, []);
      by.get(key).push(w);
    }
    return by;
  }

  drawLane(p, g, ink, waiting) {
    const { lane } = g, h = g.slot - (g.slot > 8 ? 2 : 1), left = this.gutter;
    p.fillStyle = ink.stripe;
    for (let i = 0; i < Math.max(1, lane.slots.length); i++) p.fillRect(left, g.runs + i * g.slot, this.width - left, h);
    this.label(p, lane.replica ? `${lane.backend}/${lane.replica}` : lane.backend, g, ink);
    lane.waits.forEach((row, i) => this.drawRow(p, row, g.waits + i * this.waitRow, this.waitRow - 1, "asked", "start", true));
    (waiting.get(lane.key) || []).forEach((w, i) => this.drawWaiter(p, w, g, i, ink));
    lane.slots.forEach((slot, i) => this.drawRow(p, slot, g.runs + i * g.slot, h, "start", "end", false, ink));
    for (const m of model.moves) {
      if (m.d.backend !== lane.backend || (m.d.replica || 0) !== lane.replica || m.end < this.from || m.start > this.to) continue;
      this.drawMove(p, m, g, lane, ink);
    }
  }

  label(p, text, g, ink) {
    const i = model.backendColour.get(g.lane.backend) ?? 9;
    p.fillStyle = theme.colour(i);
    p.fillRect(4, g.runs, 3, Math.max(6, g.height - 8));
    p.fillStyle = ink.text;
    while (text.length > 3 && p.measureText(text).width > this.gutter - 18) text = text.slice(0, -2) + "…";
    p.fillText(text, 12, g.runs + Math.max(7, Math.min(g.height - 8, g.slot) / 2));
  }

  // drawRow draws runs, or their waits, that lie in one row. What falls into a pixel that has
  // been drawn is left out.
  drawRow(p, row, y, h, from, to, waits, ink) {
    const t = now();
    let done = -1;
    for (const r of row) {
      const end = r[to] ?? t;
      if (end < this.from) continue;
      if (r[from] > this.to) break;
      let x = Math.max(this.gutter, this.x(r[from])), x2 = Math.min(this.width, this.x(end));
      if (x2 <= this.gutter) continue;
      if (x2 <= done && r !== this.shown()) continue;
      x2 = Math.max(x2, x + 1.5);
      const colour = this.colour(r.class);
      p.fillStyle = waits ? colour.pale : colour.full;
      p.fillRect(x, y, x2 - x - (waits || x2 - x < 4 ? 0 : 1), h);
      done = Math.max(done, Math.floor(x2));
      this.hits.push({ x, x2, y, h, run: r, waits });
      if (waits) continue;
      if (r.end === null && r.expected > t) this.outline(p, this.x(t), Math.min(this.width - 1, this.x(r.expected)), y, h, colour);
      if (r.overtook && x2 - x > 3) this.chevron(p, x, y, h, ink);
      if (r.full || (r.result && r.result !== "ok")) this.cross(p, x2, y + h / 2, r.full ? ink.warn : ink.text, ink.panel);
      if (x2 - x > 90 && h > 10) {
        p.fillStyle = ink.over;
        p.fillText(`${r.class} ${seconds((end - r.start) / 1000)}`, x + (r.overtook ? 12 : 6), y + h / 2 + 0.5);
      }
    }
  }

  outline(p, x, x2, y, h, colour) {
    p.fillStyle = colour.faint;
    p.fillRect(x, y, x2 - x, h);
    p.strokeStyle = colour.full;
    p.setLineDash([2, 2]);
    p.strokeRect(x + 0.5, y + 0.5, Math.max(1, x2 - x - 1), h - 1);
    p.setLineDash([]);
  }

  chevron(p, x, y, h, ink) {
    const s = Math.min(4, h / 2 - 1);
    p.fillStyle = ink.over;
    p.beginPath();
    p.moveTo(x + 2, y + h / 2 - s);
    p.lineTo(x + 2 + s * 1.3, y + h / 2);
    p.lineTo(x + 2, y + h / 2 + s);
    p.fill();
  }

  cross(p, x, y, colour, around) {
    p.fillStyle = around;
    p.beginPath();
    p.arc(x, y, 5.5, 0, 7);
    p.fill();
    p.strokeStyle = colour;
    p.lineWidth = 2;
    p.beginPath();
    p.moveTo(x - 3, y - 3);
    p.lineTo(x + 3, y + 3);
    p.moveTo(x + 3, y - 3);
    p.lineTo(x - 3, y + 3);
    p.stroke();
    p.lineWidth = 1;
  }

  drawWaiter(p, w, g, i, ink) {
    const rows = Math.max(2, g.lane.waits.length), y = g.waits + (i % rows) * this.waitRow, t = now();
    const x = Math.max(this.gutter, this.x(rel(w.arrived))), x2 = Math.min(this.width, this.x(t));
    if (x2 <= this.gutter) return;
    const colour = this.colour(w.class);
    p.fillStyle = w.strict ? colour.full : colour.pale;
    p.fillRect(x, y, Math.max(1.5, x2 - x), this.waitRow - 1);
    this.hits.push({ x, x2, y, h: this.waitRow - 1, waiter: w });
    if (i > 0 || !w.estimated_start) return;
    p.strokeStyle = colour.full;
    p.setLineDash([1, 3]);
    p.beginPath();
    p.moveTo(x2, y + 1.5);
    p.lineTo(Math.min(this.width, this.x(rel(w.estimated_start))), y + 1.5);
    p.stroke();
    p.setLineDash([]);
  }

  drawMove(p, m, g, lane, ink) {
    const x = Math.max(this.gutter, this.x(m.start)), x2 = Math.min(this.width, Math.max(this.x(m.end), x + 3)), h = Math.max(1, lane.slots.length) * g.slot - 1;
    p.save();
    p.beginPath();
    p.rect(x, g.runs, x2 - x, h);
    p.clip();
    p.strokeStyle = m.d.failed ? ink.warn : ink.move;
    for (let k = x - h; k < x2; k += 5) {
      p.beginPath();
      const up = m.d.kind === "wake";
      p.moveTo(k, g.runs + (up ? h : 0));
      p.lineTo(k + h, g.runs + (up ? 0 : h));
      p.stroke();
    }
    p.restore();
    p.strokeStyle = m.d.failed ? ink.warn : ink.move;
    p.strokeRect(x + 0.5, g.runs + 0.5, Math.max(2, x2 - x - 1), h - 1);
    const word = m.d.kind === "wake" ? "load" : "unload", w = p.measureText(word).width;
    if (x2 - x > w + 8) {
      p.fillStyle = ink.panel;
      p.fillRect((x + x2 - w) / 2 - 3, g.runs + h / 2 - 7, w + 6, 14);
      p.fillStyle = ink.text;
      p.fillText(word, (x + x2 - w) / 2, g.runs + h / 2 + 0.5);
    }
    this.hits.push({ x, x2, y: g.runs, h, move: m });
  }

  drawMarks(p, ink) {
    const glyphs = { control: ["▲", ink.accent], reload: ["⟳", ink.accent], breaker: ["◆", ink.warn], refused: ["▾", ink.soft], out_of_memory: ["✕", ink.warn] };
    let last = {};
    for (const m of model.marks) {
      if (m.at < this.from || m.at > this.to) continue;
      const x = this.x(m.at), [glyph, colour] = glyphs[m.d.kind] || ["•", ink.soft];
      if (x < this.gutter || x - (last[glyph] ?? -9) < 4) continue;
      last[glyph] = x;
      p.fillStyle = colour;
      p.fillText(glyph, x - p.measureText(glyph).width / 2, AXIS + EVENTS / 2 + 1);
      this.hits.push({ x: x - 5, x2: x + 5, y: AXIS, h: EVENTS, mark: m });
    }
  }

  // drawOvertakes leads from a run to the waits of those that it has passed.
  drawOvertakes(p, run, ink) {
    const hit = this.hits.find((h) => h.run === run && !h.waits);
    if (!hit) return;
    p.strokeStyle = ink.text;
    p.lineWidth = 2;
    p.strokeRect(hit.x - 1, hit.y - 1, hit.x2 - hit.x + 1, hit.h + 2);
    p.lineWidth = 1;
    for (const o of overtakes(run).slice(0, 40)) {
      const to = this.hits.find((h) => (h.waits && h.run.grant === o.grant) || h.waiter?.id === o.grant);
      if (!to) continue;
      p.beginPath();
      p.moveTo(hit.x + 2, hit.y + hit.h / 2);
      p.quadraticCurveTo(hit.x - 14, (hit.y + to.y) / 2, Math.max(to.x, Math.min(hit.x, to.x2)), to.y + 1);
      p.stroke();
      p.strokeRect(to.x, to.y - 1, Math.max(2, to.x2 - to.x), to.h + 2);
    }
  }

  shown() { return this.at?.run || this.picked; }

  hit(x, y) {
    let best = null;
    for (const h of this.hits || []) {
      if (x >= h.x - 2 && x <= h.x2 + 2 && y >= h.y - 1 && y <= h.y + h.h + 1 && (!best || h.x2 - h.x < best.x2 - best.x || (!h.waits && best.waits))) best = h;
    }
    return best;
  }

  // say describes a hit in lines, the first of which is its title.
  static say(h) {
    if (h.move) {
      const d = h.move.d;
      return [`${d.backend}: ${d.kind === "wake" ? "load" : "unload"}${d.failed ? " failed" : ""}`, `${seconds(d.took_s)}, ${bytes(d.bytes || 0)}`, d.grant ? `for request ${d.grant}` : "", d.note || ""];
    }
    if (h.mark) return sayDecision(h.mark.d);
    if (h.waiter) {
      const w = h.waiter;
      return [`request ${w.id}, ${w.class}: waits`, `for ${seconds(w.waited_s)}, position ${w.position}`, w.says, w.strict ? "strict: nothing passes it any more" : ""];
    }
    const r = h.run, lines = [`request ${r.grant}, ${r.class} on ${r.backend}`];
    lines.push(`waited ${seconds((r.start - r.asked) / 1000)}${r.reason ? ` (${r.reason.replaceAll("_", " ")})` : ""}`);
    lines.push(r.end === null ? `runs for ${seconds((now() - r.start) / 1000)}` : `ran ${seconds((r.end - r.start) / 1000)}${r.result ? `, ${r.result}` : ""}${r.code ? ` (${r.code.replaceAll("_", " ")})` : ""}`);
    if (r.vram) lines.push(bytes(r.vram));
    if (r.overtook) {
      const n = overtakes(r).length;
      if (n) lines.push(`passed ${n} that came earlier`);
    }
    lines.push(`from ${clock(r.start)}`);
    return lines;
  }

  listen() {
    const c = this.canvas;
    let drag = null;
    c.addEventListener("pointerdown", (e) => {
      drag = { x: e.clientX, moved: false };
      c.setPointerCapture(e.pointerId);
    });
    c.addEventListener("pointermove", (e) => {
      if (drag && (drag.moved || Math.abs(e.clientX - drag.x) > 4)) {
        const ms = ((drag.x - e.clientX) / (this.width - this.gutter)) * this.span;
        drag = { x: e.clientX, moved: true };
        this.tip(null);
        return this.pan(ms);
      }
      this.hover(e);
    });
    c.addEventListener("pointerup", (e) => {
      if (drag && !drag.moved) {
        const h = this.hit(e.offsetX, e.offsetY);
        if (h?.run || h?.waiter) this.open(h);
      }
      drag = null;
    });
    c.addEventListener("pointercancel", () => (drag = null));
    c.addEventListener("pointerleave", () => this.tip(null));
    c.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !e.metaKey && !e.shiftKey) return; // the page scrolls
      e.preventDefault();
      this.zoom(e.deltaY + e.deltaX > 0 ? 1.25 : 0.8, this.when(e.offsetX));
    }, { passive: false });
    c.addEventListener("keydown", (e) => this.key(e));
    c.addEventListener("blur", () => { this.picked = null; this.draw(); });
  }

  key(e) {
    const does = {
      ArrowLeft: () => this.pan(-this.span / 10), ArrowRight: () => this.pan(this.span / 10),
      ArrowUp: () => this.pick(-1), ArrowDown: () => this.pick(1),
      "+": () => this.zoom(0.7), "=": () => this.zoom(0.7), "-": () => this.zoom(1.4),
      End: () => this.toLive(), Home: () => this.pan(-KEEP), Enter: () => this.picked && this.open({ run: this.picked }),
      Escape: () => { this.picked = null; this.draw(); },
    }[e.key];
    if (!does || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    does();
  }

  // pick goes through the runs by their start: -1 is the one before.
  pick(step) {
    const all = model.started;
    if (!all.length) return;
    let i = this.picked ? all.indexOf(this.picked) : -1;
    i = i < 0 ? all.length - 1 : Math.min(all.length - 1, Math.max(0, i + step));
    this.picked = all[i];
    if (this.picked.start < this.from || this.picked.start > this.to) {
      this.end = this.picked.start + this.span / 2;
      this.pan(0);
    }
    this.draw();
    $("gantt-said").textContent = Gantt.say({ run: this.picked }).filter(Boolean).join(", ");
  }

  hover(e) {
    const h = this.hit(e.offsetX, e.offsetY);
    if (h?.run !== this.at?.run) {
      this.at = h;
      this.draw();
    }
    this.at = h;
    this.canvas.classList.toggle("on", !!(h?.run || h?.waiter));
    this.tip(h, e.clientX, e.clientY);
  }

  tip(h, x, y) {
    const tip = $("tip");
    tip.hidden = !h;
    if (!h) {
      if (this.at) { this.at = null; this.draw(); }
      return;
    }
    const [title, ...rest] = Gantt.say(h).filter(Boolean);
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: title }), ...rest.map((t) => Object.assign(document.createElement("span"), { textContent: t })));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(innerWidth - width - 4, x + 14)) + "px";
    tip.style.top = (y + 18 + height > innerHeight ? y - height - 12 : y + 18) + "px";
  }
}

const words = (s) => s.replaceAll("_", " ");

// sayDecision tells a decision in lines, the first of which is its title.
export function sayDecision(d) {
  const on = [d.class, d.backend && (d.replica ? `${d.backend}/${d.replica}` : d.backend)].filter(Boolean).join(" on ");
  const lines = {
    control: () => [`${d.action}${on ? ` ${on}` : ""}${d.resource ? ` ${d.resource}` : ""}${d.grant ? ` request ${d.grant}` : ""}${d.failed ? ": refused" : ""}`, d.by ? `by ${d.by}` : "by an operator", d.note],
    reload: () => [d.failed ? "the configuration was refused" : "the configuration was reloaded"],
    breaker: () => [`breaker of ${on}: ${d.action}`, d.note],
    refused: () => [`refused${on ? `: ${on}` : ""}`, words(d.reason || "")],
    out_of_memory: () => [`out of memory: ${on}`, d.action === "retried" ? "it is tried again, alone" : "the client was told"],
    unload: () => [`unload of ${on}${d.failed ? " failed" : ""}`, `${bytes(d.bytes || 0)} in ${seconds(d.took_s)}`, d.note],
    wake: () => [`load of ${on}${d.failed ? " failed" : ""}`, `in ${seconds(d.took_s)}`, d.note],
  }[d.kind];
  return (lines ? lines() : [words(d.kind)]).filter(Boolean);
}
