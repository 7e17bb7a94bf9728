// Each kind of simulated engine is used by the client that its users have, first directly
// and then through Anteroom.
import assert from "node:assert/strict";
import { test } from "node:test";

import { json, kinds, messages, openai } from "./kinds.js";
import { engine, listed, proxy } from "./processes.js";

test("every kind has a client here", async () => {
  assert.deepEqual(Object.keys(kinds).sort(), (await listed()).sort());
});

for (const [kind, about] of Object.entries(kinds)) {
  test(kind, { timeout: 60_000 }, async (t) => {
    const server = await engine(kind);
    try {
      await t.test("directly", () => about.use(server.url));
      const front = await proxy(server.url, about);
      try {
        await t.test("through Anteroom", async () => {
          await about.use(front.url, true);
          const metrics = await (await fetch(`${front.admin}/metrics`)).text();
          assert.match(metrics, /^anteroom_requests_total\{anteroom_class="\w+",anteroom_result="ok",.*\} [1-9]/m, "nothing was admitted");
        });
      } finally {
        await front.stop();
      }
    } finally {
      await server.stop();
    }
  });
}

// A stream waits in the queue of a paused class: OpenAI's client takes the comments that it
// gets meanwhile for nothing, and an error that comes after them for an error.
test("a stream that waits", { timeout: 60_000 }, async () => {
  const server = await engine("vqa");
  const front = await proxy(server.url, { work: ["/v1/**"], extra: ", waiting_comments: 20ms" });
  try {
    const control = (path) => fetch(front.admin + path, { method: "POST" });
    const ask = { model: "vqa", messages, stream: true };
    const whole = await openai(front.url).chat.completions.create({ model: "vqa", messages });
    await control("/api/classes/work/pause");

    const id = "00112233445566778899aabbccddeeff";
    const place = async () => (await fetch(`${front.url}/.well-known/anteroom/queue/${id}`)).json();
    const raw = await fetch(`${front.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(ask), headers: { "x-anteroom-queue-id": id } });
    assert.equal(raw.headers.get("content-type"), "text/event-stream");
    const decoder = new TextDecoder();
    const reader = raw.body.getReader();
    let text = "";
    while (!/: waiting, position 0\n\n/.test(text)) text += decoder.decode((await reader.read()).value);
    const told = await place();
    assert.deepEqual([told.state, told.position, told.reason], ["waiting", 0, "paused"], JSON.stringify(told));

    const parts = await openai(front.url).chat.completions.create(ask); // its answer has begun
    const cancelled = await openai(front.url).chat.completions.create(ask);
    const waiting = (await json(`${front.admin}/api/queue`)).waiting;
    assert.equal(waiting.length, 3);
    await control(`/api/queue/${waiting[2].id}/cancel`);
    await assert.rejects(async () => { for await (const part of cancelled) assert.fail(part); }, (err) => err.code === "cancelled_by_operator");

    await control("/api/classes/work/resume");
    let said = "";
    for await (const part of parts) said += part.choices[0].delta.content ?? "";
    assert.equal(said, whole.choices[0].message.content);
    for (let next; !(next = await reader.read()).done;) text += decoder.decode(next.value);
    assert.match(text, /data: \[DONE\]\n\n$/);
    assert.equal((await place()).code, "no_request");
  } finally {
    await front.stop();
    await server.stop();
  }
});
