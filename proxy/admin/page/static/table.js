// A table that draws only the rows that are seen, and changes only what differs.
import { el, set, button } from "./format.js";

const OVERSCAN = 8;

export class Table {
  // columns: [{id, label, cls, text(row), draw(cell, row), sort(row)}]; draw where there is more than text.
  constructor(at, { label, columns, key, empty, open, sort }) {
    Object.assign(this, { columns, key, empty, open, sorted: sort || null, down: false, rows: [], shown: new Map() });
    this.note = el("p", "empty", "Loading…");
    this.scroll = el("div", "scroll");
    this.scroll.tabIndex = 0;
    this.scroll.setAttribute("role", "region");
    this.scroll.setAttribute("aria-label", label);
    this.table = el("table");
    this.table.setAttribute("aria-label", label);
    const head = el("tr");
    this.heads = columns.map((c) => {
      const th = el("th", c.cls || "");
      th.scope = "col";
      if (c.sort) th.append(button(c.label, () => this.by(c.id), "sort"));
      else th.textContent = c.label;
      head.append(th);
      return th;
    });
    this.body = el("tbody");
    this.above = el("tr", "space");
    this.below = el("tr", "space");
    for (const s of [this.above, this.below]) {
      s.setAttribute("aria-hidden", "true");
      s.append(el("td"));
      s.firstChild.colSpan = columns.length;
    }
    this.table.append(el("thead", "", head), this.body);
    this.scroll.append(this.table);
    at.replaceChildren(this.note, this.scroll);
    this.scroll.hidden = true;
    this.scroll.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(this.scroll);
  }

  by(id) {
    if (this.sorted !== id) [this.sorted, this.down] = [id, false];
    else if (!this.down) this.down = true;
    else this.sorted = null;
    this.order();
    this.draw();
  }

  later() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => { this.waits = false; this.draw(); });
  }

  update(rows) {
    this.given = rows;
    this.order();
    this.draw();
  }

  order() {
    const column = this.columns.find((c) => c.id === this.sorted);
    this.rows = this.given || [];
    if (column) {
      const sign = this.down ? -1 : 1;
      this.rows = this.rows.map((r) => [column.sort(r), r]).sort((a, b) => (a[0] < b[0] ? -sign : a[0] > b[0] ? sign : 0)).map((x) => x[1]);
    }
    this.columns.forEach((c, i) => {
      if (!c.sort) return;
      this.heads[i].setAttribute("aria-sort", c.id !== this.sorted ? "none" : this.down ? "descending" : "ascending");
    });
  }

  draw() {
    if (!this.given) return;
    const none = !this.rows.length;
    if (this.note.hidden === none) [this.note.hidden, this.scroll.hidden] = [!none, none];
    if (none) {
      set(this.note, this.empty);
      this.shown.forEach((tr) => tr.remove());
      this.shown.clear();
      return;
    }
    this.height ||= parseFloat(getComputedStyle(this.scroll).getPropertyValue("--row")) || 30;
    const h = this.height, from = Math.max(0, Math.floor(this.scroll.scrollTop / h) - OVERSCAN);
    const seen = Math.ceil((this.scroll.clientHeight || 400) / h) + 2 * OVERSCAN;
    const to = Math.min(this.rows.length, from + seen);
    const wanted = new Set();
    let before = this.above;
    if (this.body.firstChild !== before) this.body.prepend(before);
    for (let i = from; i < to; i++) {
      const row = this.rows[i], key = this.key(row);
      wanted.add(key);
      let tr = this.shown.get(key);
      if (!tr) this.shown.set(key, (tr = this.make()));
      tr.row = row;
      if (tr.index !== i) tr.setAttribute("aria-rowindex", (tr.index = i) + 2);
      this.fill(tr, row);
      if (before.nextSibling !== tr) before.after(tr);
      before = tr;
    }
    for (const [key, tr] of this.shown) {
      if (wanted.has(key)) continue;
      tr.remove();
      this.shown.delete(key);
    }
    if (before.nextSibling !== this.below) before.after(this.below);
    this.space(this.above, from * h);
    this.space(this.below, (this.rows.length - to) * h);
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
  }

  space(tr, height) {
    if (tr.height === height) return;
    tr.height = height;
    tr.hidden = !height;
    tr.firstChild.style.height = height + "px";
  }

  make() {
    const tr = el("tr");
    this.columns.forEach((c, i) => {
      const td = el("td", c.cls || "");
      if (i === 0 && this.open) {
        td.inner = button("", () => this.open(tr.row), "link");
        td.append(td.inner);
      }
      tr.append(td);
    });
    if (this.open) tr.addEventListener("click", (e) => { if (!e.target.closest("button, a")) this.open(tr.row); });
    return tr;
  }

  fill(tr, row) {
    for (let i = 0; i < this.columns.length; i++) {
      const c = this.columns[i], td = tr.cells[i], text = c.text ? c.text(row) : "";
      if (c.text && td.was !== text) {
        td.was = text;
        set(td.inner || td, text);
        if (c.wide) td.title = text;
      }
      c.draw?.(td, row);
    }
  }
}
