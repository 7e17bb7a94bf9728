// Numbers, times and small pieces of the document.

export const $ = (id) => document.getElementById(id);

// el makes an element: el("td", "class names", "text" or children...).
export function el(tag, cls, ...inside) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  e.append(...inside.filter((x) => x !== null && x !== undefined));
  return e;
}

// set changes a text only where it differs, so that nothing is laid out for nothing.
export function set(e, text) {
  if (e.firstChild?.nodeType === 3 && !e.firstChild.nextSibling ? e.firstChild.data !== text : e.textContent !== text) e.textContent = text;
}

export function button(text, does, cls) {
  const b = el("button", cls, text);
  b.type = "button";
  b.addEventListener("click", does);
  return b;
}

const GiB = 2 ** 30;

export function bytes(n) {
  if (n === null || n === undefined || n < 0) return "?";
  if (n === 0) return "0";
  if (n >= GiB) return (n / GiB).toFixed(n >= 100 * GiB ? 0 : 1) + " GiB";
  if (n >= 2 ** 20) return Math.round(n / 2 ** 20) + " MiB";
  return Math.max(1, Math.round(n / 1024)) + " KiB";
}

export function seconds(s) {
  if (s === null || s === undefined || s < 0) return "–";
  if (s < 0.0005) return "0";
  if (s < 1) return Math.round(s * 1000) + " ms";
  if (s < 99.95) return s.toFixed(1) + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + String(Math.floor(s % 60)).padStart(2, "0");
  if (s < 2 * 86400) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  return Math.floor(s / 86400) + " days";
}

export const count = (n) => n.toLocaleString("en");

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dayFormat = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

// clock is a moment in the viewer's zone; utc is the same for the hover.
export function clock(ms) {
  const day = Math.abs(Date.now() - ms) > 20 * 3600e3 ? dayFormat.format(ms) + " " : "";
  return day + clockFormat.format(ms);
}
export const utc = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";

// moment shows a time in an element.
export function moment(e, ms) {
  set(e, clock(ms));
  e.title = utc(ms);
}

// The palette. The heaviest is navy and the lightest red; 2 and on are for what is between.
const palettes = {
  light: ["#1f3b73", "#d0453b", "#0f857a", "#a86a12", "#7650b4", "#4a7f2c", "#b1407f", "#2f7fb8", "#8a5a3b", "#5c6b7f"],
  dark: ["#7da0ee", "#ff8478", "#3fc1b2", "#e0a94a", "#b795f0", "#8fc46b", "#ee86bd", "#6cbcf0", "#cf9d78", "#a3b1c4"],
};
const inks = {
  light: { text: "#1b2330", soft: "#5b6675", line: "#e3e7ec", stripe: "#f7f8fa", panel: "#ffffff", accent: "#1f3b73", warn: "#b45309", move: "#64748b", other: "#8b96a5", doubt: "#bcc4cf", over: "#ffffff", limit: "#b42318" },
  dark: { text: "#e4e9f0", soft: "#98a5b6", line: "#27303d", stripe: "#19202a", panel: "#151b24", accent: "#8fb0f5", warn: "#f5b544", move: "#8494aa", other: "#7b8797", doubt: "#4f5a69", over: "#0e1218", limit: "#ff8f80" },
};

export const theme = {
  name: "light",
  get ink() { return inks[this.name]; },
  colour(i) { return palettes[this.name][i % palettes.light.length]; },
};

// paint gives indexes of the palette to names by weight.
export function paint(weights) {
  const names = [...weights.keys()].sort((a, b) => weights.get(b) - weights.get(a) || (a < b ? -1 : 1));
  return new Map(names.map((n, i) => [n, i === 0 ? 0 : i === names.length - 1 ? 1 : i + 1]));
}

// pale mixes a colour with the panel's.
export function pale(colour, share) {
  const a = parseInt(colour.slice(1), 16), b = parseInt(theme.ink.panel.slice(1), 16);
  const mix = (s) => Math.round(((a >> s) & 255) * share + ((b >> s) & 255) * (1 - share));
  return `rgb(${mix(16)},${mix(8)},${mix(0)})`;
}
