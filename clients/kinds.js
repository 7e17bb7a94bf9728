// How each kind of simulated engine is used by the client that its users have.
import assert from "node:assert/strict";
import { File } from "node:buffer";

import { Client as Gradio } from "@gradio/client";
import { Ollama } from "ollama";
import OpenAI, { toFile } from "openai";
import WebSocket from "ws";

// Node 18 has it, and not for everyone.
globalThis.File ??= File;

export const messages = [{ role: "user", content: "What is that?" }];
const recording = () => toFile(Buffer.alloc(32000), "a.wav");
const png = (bytes) => assert.equal(Buffer.from(bytes).subarray(1, 4).toString(), "PNG");

export async function json(url, body, init = {}) {
  const post = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const res = await fetch(url, { ...post, ...init });
  assert.ok(res.ok, `${url}: ${res.status} ${res.ok ? "" : await res.text()}`);
  return res.json();
}

export function openai(url, prefix = "/v1") {
  return new OpenAI({ baseURL: url + prefix, apiKey: "none", maxRetries: 0 });
}

// chats talks to the first model, or to the one named.
export async function chats(url, model) {
  const client = openai(url);
  const names = [];
  for await (const m of client.models.list()) names.push(m.id);
  model ??= names[0];
  assert.ok(names.includes(model), names);
  const whole = await client.chat.completions.create({ model, messages });
  assert.match(whole.choices[0].message.content, /^A small bird/);
  assert.ok(whole.usage.total_tokens > 0);
  let text = "";
  let reason;
  for await (const part of await client.chat.completions.create({ model, messages, stream: true })) {
    text += part.choices[0].delta.content ?? "";
    reason = part.choices[0].finish_reason ?? reason;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(reason, "stop");
  assert.ok((await fetch(`${url}/v1/chat/completions`, { method: "POST", body: "{" })).status >= 400);
  return client;
}

async function completes(client, model) {
  const whole = await client.completions.create({ model, prompt: "A bird" });
  let text = "";
  for await (const part of await client.completions.create({ model, prompt: "A bird", stream: true })) text += part.choices[0].text;
  assert.equal(text, whole.choices[0].text);
}

// responds uses the newer way to ask.
async function responds(client, model) {
  const whole = await client.responses.create({ model, input: "What is that?" });
  assert.match(whole.output_text, /^A small bird/);
  let text = "";
  let last;
  for await (const e of await client.responses.create({ model, input: "What is that?", stream: true })) {
    if (e.type === "response.output_text.delta") text += e.delta;
    last = e;
  }
  assert.equal(text, whole.output_text);
  assert.equal(last.response.status, "completed");
}

async function embeds(client, model) {
  // The client asks for base64 unless told otherwise.
  const [a, b] = (await client.embeddings.create({ model, input: ["a", "b"] })).data;
  const plain = (await client.embeddings.create({ model, input: "a", encoding_format: "float" })).data[0];
  assert.ok(a.embedding.length > 1 && b.index === 1);
  assert.ok(Math.abs(a.embedding[0] - plain.embedding[0]) < 1e-6);
}

async function hears(client, model) {
  assert.match((await client.audio.transcriptions.create({ model, file: await recording() })).text, /^A small bird/);
  const verbose = await client.audio.transcriptions.create({ model, file: await recording(), response_format: "verbose_json" });
  assert.equal(verbose.duration, 1);
  assert.match(await client.audio.transcriptions.create({ model, file: await recording(), response_format: "srt" }), /-->/);
  assert.match((await client.audio.translations.create({ model, file: await recording() })).text, /^A small bird/);
}

async function usesOllama(url) {
  const client = new Ollama({ host: url });
  assert.equal(typeof (await client.version()).version, "string");
  const { models } = await client.list();
  assert.deepEqual(models.map((m) => m.name), ["llama3.2:latest", "qwen2.5vl:latest"]);
  assert.ok((await client.show({ model: "llama3.2" })).capabilities.includes("completion"));
  const whole = await client.generate({ model: "llama3.2", prompt: "?" });
  assert.match(whole.response, /^A small bird/);
  let text = "";
  for await (const part of await client.chat({ model: "llama3.2", messages, stream: true })) text += part.message.content;
  assert.equal(text, whole.response);
  assert.equal((await client.ps()).models[0].name, "llama3.2:latest");
  assert.equal((await client.embed({ model: "llama3.2", input: ["a", "b"] })).embeddings.length, 2);
  const states = [];
  for await (const p of await client.pull({ model: "qwen2.5vl", stream: true })) states.push(p.completed ?? p.status);
  assert.deepEqual([states[0], states.at(-1)], ["pulling manifest", "success"]);
  assert.ok(states.includes(8 * 2 ** 30), states);
  await assert.rejects(client.chat({ model: "gone", messages }), /not found/);
  await client.generate({ model: "llama3.2", prompt: "", keep_alive: 0 });
  assert.equal((await client.ps()).models.length, 0);
  const other = await chats(url, "llama3.2:latest");
  assert.equal((await other.models.retrieve("llama3.2:latest")).owned_by, "library");
  await completes(other, "llama3.2");
  await responds(other, "llama3.2");
  await embeds(other, "llama3.2");
}

async function usesGradio(url, through) {
  const client = await Gradio.connect(url, { events: ["status", "data"] });
  const api = await client.view_api();
  assert.deepEqual(Object.keys(api.named_endpoints), ["/caption", "/predict"]);
  // Two at once share one stream. Where one slot lets the second one in at the end of the
  // first, its answer and the end of the stream can cross, and the client would wait for ever.
  const first = client.predict("/predict", ["a bird"]);
  if (through) await first;
  const drawn = await Promise.all([first, client.predict("/predict", { prompt: "a house" })]);
  for (const { data: [image] } of drawn) {
    assert.ok(image.url.startsWith(url), `${image.url} is not at ${url}`);
    png(await (await fetch(image.url)).arrayBuffer());
  }
  const stages = [];
  for await (const e of client.submit("/predict", ["a bird"])) stages.push(e.type === "data" ? "data" : e.stage);
  assert.deepEqual([stages[0], stages.at(-1)], ["pending", "complete"]);
  assert.ok(stages.includes("data"), stages);
  const said = await client.predict("/caption", [new Blob([Buffer.from("an image")], { type: "image/png" })]);
  assert.match(said.data[0], /^A small bird/);
  const job = client.submit("/predict", ["a bird"]);
  await job.wait_for_id();
  await job.cancel();
  assert.equal(await client.reconnect(), "connected");
  client.close();
}

// usesComfyUI does what its page does: it connects, asks for the nodes, uploads, queues a
// prompt, and waits for the socket to tell of the image.
async function usesComfyUI(url, through) {
  const id = "a-page";
  const page = (path, body, init) => json(`${url}/api${path}`, body, { ...init, headers: { "content-type": "application/json", origin: url } });
  const ws = new WebSocket(`${url.replace("http", "ws")}/ws?clientId=${id}`, { origin: url });
  const told = [];
  let heard = () => {};
  ws.on("message", (m) => {
    told.push(JSON.parse(m));
    heard();
  });
  const hear = async (wanted) => {
    while (!told.some(wanted)) await new Promise((resolve) => (heard = resolve));
    return told.find(wanted);
  };
  await hear((m) => m.type === "status" && m.data.sid === id);
  ws.send(JSON.stringify({ type: "feature_flags", data: { supports_preview_metadata: true } }));
  await hear((m) => m.type === "feature_flags");
  const nodes = await page("/object_info");
  assert.ok(nodes.KSampler && nodes.SaveImage.output_node);
  const asked = ["/system_stats", "/queue", "/history?max_items=64", "/settings", "/users", "/extensions", "/embeddings", "/i18n"];
  for (const path of asked) await page(path);
  const form = new FormData();
  form.append("image", new File(["an image"], "in.png"));
  const upload = await fetch(`${url}/api/upload/image`, { method: "POST", body: form });
  assert.equal((await upload.json()).name, "in.png");
  const prompt = { 3: { class_type: "KSampler", inputs: { steps: 20 } }, 9: { class_type: "SaveImage", inputs: {} } };
  const queued = await page("/prompt", { client_id: id, prompt });
  const mine = (type) => (m) => m.type === type && m.data.prompt_id === queued.prompt_id;
  await hear((m) => mine("executing")(m) && m.data.node === null);
  const { data: { output } } = await hear(mine("executed"));
  assert.equal(told.filter(mine("progress")).length, 20);
  assert.ok(await hear(mine("execution_success")));
  const { filename } = output.images[0];
  png(await (await fetch(`${url}/api/view?filename=${filename}&type=output`)).arrayBuffer());
  const history = await page(`/history/${queued.prompt_id}`);
  assert.equal(history[queued.prompt_id].status.status_str, "success");
  for (const [path, body] of [["/interrupt", {}], ["/queue", { clear: true }], ["/free", { unload_models: true }]]) {
    const res = await fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    // The proxy keeps the call that frees memory for itself.
    assert.equal(res.status, through && path === "/free" ? 403 : 200, path);
  }
  ws.close();
}

// page asks for a function as the page of A1111 does, and gives what it says at the end.
async function page(url, fn_index, data) {
  const ws = new WebSocket(`${url.replace("http", "ws")}/queue/join`, { origin: url });
  const me = { fn_index, session_hash: "me" };
  const said = [];
  await new Promise((resolve, reject) => {
    ws.on("error", reject);
    ws.on("close", resolve);
    ws.on("message", (m) => {
      said.push(JSON.parse(m));
      if (said.at(-1).msg === "send_hash") ws.send(JSON.stringify(me));
      if (said.at(-1).msg === "send_data") ws.send(JSON.stringify({ ...me, data }));
    });
  });
  assert.deepEqual(said.map((m) => m.msg), ["send_hash", "estimation", "send_data", "process_starts", "process_completed"]);
  assert.ok(said.at(-1).success, JSON.stringify(said.at(-1)));
  return said.at(-1).output.data;
}

async function usesA1111(url) {
  const api = `${url}/sdapi/v1`;
  const [[image]] = await page(url, 0, ["a bird"]);
  png(Buffer.from(image.split(",")[1], "base64"));
  await page(url, 1, []);
  assert.equal((await json(`${api}/sd-models`))[0].model_name, "v1-5-pruned-emaonly");
  assert.match((await json(`${api}/options`)).sd_model_checkpoint, /^v1-5/);
  await json(`${api}/options`, { samples_format: "png" });
  const drawn = await json(`${api}/txt2img`, { prompt: "a bird", steps: 20, width: 512, height: 512 });
  png(Buffer.from(drawn.images[0], "base64"));
  const again = await json(`${api}/img2img`, { prompt: "a bird", init_images: [drawn.images[0]] });
  png(Buffer.from(again.images[0], "base64"));
  png(Buffer.from((await json(`${api}/extra-single-image`, { image: drawn.images[0] })).image, "base64"));
  assert.equal((await json(`${api}/progress`)).state.job_count, 0);
  assert.ok((await json(`${api}/memory`)).cuda.system.total > 0);
  await json(`${api}/interrupt`, {});
}

const models = { whisper: "Systran/faster-whisper-small", lm: "qwen2.5-7b-instruct", gguf: "gemma-3-4b" };

// Each kind: its preset, which is all that the proxy is told of it, or the paths whose POST
// is work, and its client.
export const kinds = {
  ollama: { preset: "ollama", use: usesOllama },
  gradio: { preset: "gradio", use: usesGradio },
  comfyui: { preset: "comfyui", use: usesComfyUI },
  a1111: { preset: "a1111", use: usesA1111 },
  vllm: {
    preset: "vllm",
    async use(url) {
      const client = await chats(url);
      await completes(client);
      await responds(client);
    },
  },
  sglang: {
    preset: "sglang",
    async use(url) {
      await completes(await chats(url));
      assert.match((await json(`${url}/generate`, { text: "?" })).text, /^A small/);
      assert.ok((await json(`${url}/get_server_info`)).version);
    },
  },
  "llama-server": {
    preset: "llama-server",
    async use(url) {
      const client = openai(url);
      const [m] = (await client.models.list()).data;
      await completes(client, m.id);
      await responds(client, m.id);
      await embeds(client, m.id);
      assert.match((await client.chat.completions.create({ model: m.id, messages })).choices[0].message.content, /^A small/);
      assert.equal((await json(`${url}/props`)).role, "router");
      assert.ok((await json(`${url}/slots?model=${m.id}`)).length > 0);
    },
  },
  "llama-swap": {
    preset: "llama-swap",
    async use(url) {
      await embeds(await chats(url, models.gguf), models.gguf);
      assert.equal((await json(`${url}/running`)).running[0].model, models.gguf);
    },
  },
  tgi: {
    preset: "tgi",
    async use(url) {
      await completes(await chats(url));
      assert.match((await json(`${url}/generate`, { inputs: "?" })).generated_text, /^A small/);
      const res = await fetch(`${url}/generate_stream`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"inputs":"?"}' });
      assert.match(await res.text(), /"generated_text":"A small/);
      assert.equal((await json(`${url}/info`)).router, "text-generation-router");
    },
  },
  lmstudio: {
    preset: "lmstudio",
    async use(url) {
      const client = await chats(url, models.lm);
      await completes(client, models.lm);
      const state = async () => (await json(`${url}/api/v0/models/${models.lm}`)).state;
      assert.equal(await state(), "loaded");
      await embeds(client, "text-embedding-nomic-embed-text-v1.5");
      assert.equal(await state(), "not-loaded");
      assert.ok((await json(`${url}/api/v0/chat/completions`, { model: models.lm, messages })).stats);
    },
  },
  tei: {
    preset: "tei",
    async use(url) {
      await embeds(openai(url), "any");
      assert.equal((await json(`${url}/embed`, { inputs: ["a", "b"] })).length, 2);
      assert.ok((await json(`${url}/info`)).model_type.embedding);
    },
  },
  rerank: {
    preset: "tei",
    async use(url) {
      assert.equal((await json(`${url}/rerank`, { query: "b", texts: ["a", "b"] }))[0].index, 1);
      assert.ok((await json(`${url}/info`)).model_type.reranker);
    },
  },
  infinity: {
    preset: "tei",
    async use(url) {
      const client = openai(url, "");
      const [embedder, ranker] = (await client.models.list()).data;
      await embeds(client, embedder.id);
      const { results } = await json(`${url}/rerank`, { model: ranker.id, query: "b", documents: ["a", "b"], top_n: 1 });
      assert.deepEqual(results.map((r) => r.index), [1]);
    },
  },
  whisper: {
    preset: "whisper",
    async use(url, through) {
      await hears(openai(url), models.whisper);
      if (!through) assert.deepEqual((await json(`${url}/api/ps`)).models, [models.whisper]);
    },
  },
  "whisper-cpp": {
    preset: "whisper",
    async use(url) {
      const form = new FormData();
      form.append("file", new File([new Uint8Array(32000)], "a.wav"));
      form.append("response_format", "json");
      assert.match((await json(`${url}/inference`, undefined, { method: "POST", body: form })).text, /^A small bird/);
    },
  },
  tts: {
    preset: "kokoro",
    async use(url) {
      const speak = async (response_format) => {
        const res = await openai(url).audio.speech.create({ model: "kokoro", voice: "af_heart", input: "A bird sits on the roof.", response_format });
        return Buffer.from(await res.arrayBuffer());
      };
      assert.equal((await speak("mp3")).readUInt16BE(), 0xfffb);
      const wav = await speak("wav");
      assert.equal(wav.readUInt32LE(4), wav.length - 8);
    },
  },
  triton: {
    preset: "triton",
    async use(url) {
      assert.equal((await json(`${url}/v2`)).name, "triton");
      const input = { name: "input0", datatype: "FP32", shape: [1, 1], data: [1] };
      assert.equal((await json(`${url}/v2/models/resnet50/infer`, { inputs: [input] })).outputs[0].datatype, "FP32");
    },
  },
  diffusers: {
    preset: "diffusers",
    async use(url) {
      assert.equal((await json(`${url}/openapi.json`)).info.title, "FastAPI");
      png(Buffer.from((await json(`${url}/generate`, { prompt: "a bird" })).images[0], "base64"));
    },
  },
  flux: {
    preset: "diffusers",
    async use(url) {
      const { data } = await openai(url).images.generate({ model: "flux", prompt: "a bird", n: 2 });
      assert.equal(data.length, 2);
      png(Buffer.from(data[0].b64_json, "base64"));
    },
  },
  vqa: { work: ["/v1/**"], async use(url) { await chats(url); } },
};
