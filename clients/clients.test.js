// Each kind of simulated engine is used by the client that its users have, first directly
// and then through Anteroom.
import assert from "node:assert/strict";
import { test } from "node:test";

import { kinds } from "./kinds.js";
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
