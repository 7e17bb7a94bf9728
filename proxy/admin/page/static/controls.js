// What an operator can do: each control asks first, and leaves a line in the log.
import { $, el, button } from "./format.js";
import { model } from "./model.js";

export const mayAct = () => model.session?.role === "control";

const enc = encodeURIComponent;
const stays = "What runs goes on.";

// acts are the controls: their path, their title, and what comes of them.
export const acts = {
  pause: (n) => [`/api/classes/${enc(n)}/pause`, `Pause class ${n}?`, `Nothing of ${n} starts any more. Its queue stays. ${stays}`, "Pause"],
  resume: (n) => [`/api/classes/${enc(n)}/resume`, `Resume class ${n}?`, `What waits for ${n} starts as memory and slots allow.`, "Resume"],
  drain: (n) => [`/api/backends/${enc(n)}/drain`, `Drain backend ${n}?`, `It gets no new work; what waits for it waits on. ${stays}`, "Drain"],
  undrain: (n) => [`/api/backends/${enc(n)}/resume`, `Resume backend ${n}?`, "It gets work again.", "Resume"],
  unload: (n) => [`/api/backends/${enc(n)}/reclaim`, `Unload backend ${n}?`, "It is told to free its memory when what runs there has ended. Its next request loads it again.", "Unload"],
  wake: (n) => [`/api/backends/${enc(n)}/wake`, `Wake backend ${n}?`, "It is loaded as soon as there is room.", "Wake"],
  breaker: (n) => [`/api/backends/${enc(n)}/breaker/reset`, `Reset the breaker of ${n}?`, "It gets work at once, whatever failed before.", "Reset breaker"],
  cancel: (n) => [`/api/queue/${n}/cancel`, `Cancel request ${n}?`, "Its client is answered with 503, cancelled_by_operator.", "Cancel request"],
  release: (n) => [`/api/grants/${n}/release`, `Release grant ${n}?`, "Its slot and memory are given out again. The work itself is not stopped: do this only where it is known to be over.", "Release"],
  forget: (n) => [`/api/learned/${enc(n)}/forget`, `Forget what was learned of route ${n}?`, "Its times and its memory are learned anew. A route whose memory is learned runs alone first.", "Forget"],
  reload: () => ["/api/reload", "Reload the configuration?", "The file is read again. Where it is wrong, nothing changes. What runs and what waits stays.", "Reload"],
};

export async function call(path, init) {
  const answer = await fetch(path, init);
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail || `${answer.status} ${answer.statusText}`), { status: answer.status });
}

export function toast(text) {
  const t = $("toast");
  t.textContent = text;
  t.className = "on";
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (t.className = ""), 5000);
}

// ask opens the dialog of a control, and does it when it is confirmed.
export function ask(name, on) {
  const [path, title, text, yes] = acts[name](on), dialog = $("ask"), by = $("ask-by");
  $("ask-h").textContent = title;
  $("ask-p").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask-error").textContent = $("ask-reason").value = "";
  by.value = localStorage.getItem("by") || "";
  dialog.querySelector("form").onsubmit = async (e) => {
    e.preventDefault();
    localStorage.setItem("by", by.value);
    $("ask-yes").disabled = true;
    try {
      // A header is Latin-1; what is not is written as in a URL.
      const headers = by.value ? { "X-Anteroom-By": /^[ -~]*$/.test(by.value) ? by.value : enc(by.value) } : {};
      await call(`${path}?reason=${enc($("ask-reason").value)}`, { method: "POST", headers });
      dialog.close();
      toast(`${title.replace("?", "")}: done`);
    } catch (error) {
      $("ask-error").textContent = error.message;
    }
    $("ask-yes").disabled = false;
  };
  $("ask-no").onclick = () => dialog.close();
  dialog.showModal();
  $("ask-reason").focus();
}

// act is a control's button.
export function act(name, on, text, cls = "small") {
  const b = button(text, () => ask(name, on), cls);
  b.setAttribute("aria-label", `${text} ${on}`);
  return b;
}

// acted keeps a cell's buttons as they are while the same ones are wanted, so that the focus
// stays where it is.
export function acted(td, wanted) {
  if (!mayAct()) wanted = [];
  const key = wanted.map((w) => w.join()).join(";");
  if (td.acts === key) return;
  td.acts = key;
  td.replaceChildren(...wanted.map((w) => act(...w)));
}

// login asks for the token until one is right.
export function login() {
  const dialog = $("login");
  if (dialog.open) return;
  dialog.oncancel = (e) => e.preventDefault();
  return new Promise((done) => {
    dialog.querySelector("form").onsubmit = async (e) => {
      e.preventDefault();
      try {
        await call("/api/session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: $("login-token").value }) });
        $("login-token").value = $("login-error").textContent = "";
        dialog.close();
        done();
      } catch (error) {
        $("login-error").textContent = error.message;
      }
    };
    dialog.showModal();
  });
}

// details shows all that is known of a thing, and what can be done with it.
export function details(title, pairs, actions = []) {
  $("details-h").textContent = title;
  const list = [];
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "" || value === "–") continue;
    list.push(el("dt", "", name), el("dd", "", value));
  }
  $("details-l").replaceChildren(...list);
  const dialog = $("details"), close = button("Close", () => dialog.close());
  const does = mayAct() ? actions.map(([name, on, text]) => button(text, () => { dialog.close(); ask(name, on); })) : [];
  $("details-a").replaceChildren(...does, close);
  if (!dialog.open) dialog.showModal();
  close.focus();
}
