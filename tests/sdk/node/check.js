// The official `openai` package against a running gateway: what people's programs rely on.
// Given by the environment: GATEWAY (base URL), KEY (a key that may use all models), POOR_KEY (one
// that may use none of them). It must not know the gateway or what stands behind it.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";

const messages = [{ role: "user", content: "Say some words." }];
const lookUp = {
  type: "function",
  function: {
    name: "look_up",
    parameters: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
  },
};

const client = (apiKey) => new OpenAI({ baseURL: process.env.GATEWAY, apiKey, maxRetries: 0, timeout: 20_000 });
const gateway = client(process.env.KEY);
const count = (text) => text.split(/\s+/).filter(Boolean).length;

async function completion() {
  const answer = await gateway.chat.completions.create({ model: "sdk/plain", messages });
  assert.equal(answer.object, "chat.completion");
  assert.equal(count(answer.choices[0].message.content), 12);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.deepEqual([answer.usage.prompt_tokens, answer.usage.completion_tokens], [17, 12]);
}

async function streamed(options) {
  const usages = [];
  const finishes = [];
  const ids = new Set();
  let text = "";
  const stream = await gateway.chat.completions.create({ model: "sdk/plain", messages, stream: true, ...options });
  for await (const chunk of stream) {
    ids.add(chunk.id);
    text += chunk.choices[0]?.delta?.content ?? "";
    if (chunk.choices[0]?.finish_reason) finishes.push(chunk.choices[0].finish_reason);
    if (chunk.usage) usages.push([chunk.usage.prompt_tokens, chunk.usage.completion_tokens]);
  }
  assert.equal(count(text), 12);
  assert.equal(ids.size, 1);
  assert.deepEqual(finishes, ["stop"]);
  return usages;
}

async function streamWithoutUsage() {
  assert.deepEqual(await streamed({}), []);
  assert.deepEqual(await streamed({ stream_options: { include_usage: false } }), []);
}

async function streamWithUsage() {
  assert.deepEqual(await streamed({ stream_options: { include_usage: true } }), [[17, 12]]);
}

async function toolCallsStreamed() {
  const stream = gateway.chat.completions.stream({ model: "sdk/tools", messages, tools: [lookUp] });
  const { choices } = await stream.finalChatCompletion();
  assert.equal(choices[0].finish_reason, "tool_calls");
  const calls = choices[0].message.tool_calls;
  assert.deepEqual(calls.map((call) => call.function.name), ["look_up", "look_up"]);
  for (const call of calls) assert.equal(count(JSON.parse(call.function.arguments).text), 12);
}

async function jsonSchema() {
  const schema = {
    type: "object",
    properties: { name: { type: "string" }, age: { type: "integer" } },
    required: ["name", "age"],
    additionalProperties: false,
  };
  const answer = await gateway.chat.completions.create({
    model: "sdk/schema",
    messages,
    response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema } },
  });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "Ada", age: 36 });
}

async function models() {
  const ids = [];
  for await (const model of gateway.models.list()) ids.push(model.id);
  assert.ok(ids.includes("everyday"), ids.join());
  assert.equal((await gateway.models.retrieve("everyday")).id, "everyday");
}

async function raises(kind, status, code, call) {
  await assert.rejects(call, (error) => {
    assert.equal(error.constructor, kind);
    assert.equal(error.status, status);
    assert.ok(error.error.message && error.requestID);
    if (code) assert.equal(error.code, code);
    return true;
  });
}

async function errors() {
  const ask = (model, who = gateway, more = {}) => () => who.chat.completions.create({ model, messages, ...more });
  await raises(OpenAI.AuthenticationError, 401, "invalid_api_key", ask("sdk/plain", client("wrong")));
  await raises(OpenAI.PermissionDeniedError, 403, null, ask("sdk/plain", client(process.env.POOR_KEY)));
  await raises(OpenAI.NotFoundError, 404, "model_not_found", ask("no-such-model"));
  await raises(OpenAI.BadRequestError, 400, null, ask("sdk/bad"));
  await raises(OpenAI.BadRequestError, 400, null, ask("sdk/plain", gateway, { max_tokens: "many" }));
  await raises(OpenAI.RateLimitError, 429, "rate_limit_exceeded", ask("sdk/limited"));
  await raises(OpenAI.RateLimitError, 429, "rate_limit_exceeded", ask("sdk/limited", gateway, { stream: true }));
  await raises(OpenAI.RateLimitError, 429, "insufficient_quota", ask("sdk/poor", gateway.withOptions({ maxRetries: 2 })));
}

/** One call a second: the second call is told how long to wait, waits that long and passes at its first retry. */
async function waitsAsTold() {
  const ask = (maxRetries) => client(process.env.PACED_KEY).chat.completions.create({ model: "sdk/plain", messages }, { maxRetries }).withResponse();
  await ask(0);
  const limited = await ask(0).then(() => assert.fail("two calls in a second"), (error) => error);
  assert.equal(limited.status, 429);
  const told = Number(limited.headers.get("retry-after-ms")) / 1000;
  assert.equal(limited.headers.get("retry-after"), String(Math.ceil(told)));
  const began = performance.now();
  const { response } = await ask(1);
  const waited = (performance.now() - began) / 1000;
  assert.ok(waited >= told - 0.1 && waited <= told + 2, `told ${told}, waited ${waited}`);
  console.log(`node: was told to wait ${told} s, came after ${waited.toFixed(3)} s`);
  assert.equal(response.headers.get("x-ratelimit-remaining-requests"), "98");
  assert.match(response.headers.get("x-ratelimit-reset-requests"), /^(1m0(\.[0-9]{3})?|5[0-9]\.[0-9]{3})s$/);
}

async function aCutStreamIsAnError() {
  let words = 0;
  await assert.rejects(async () => {
    const stream = await gateway.chat.completions.create({ model: "sdk/cut", messages, stream: true });
    for await (const chunk of stream) words += chunk.choices[0]?.delta?.content ? 1 : 0;
  }, OpenAI.APIError);
  assert.equal(words, 5);
}

async function completionsAndResponses() {
  const completion = await gateway.completions.create({ model: "sdk/native", prompt: "Say some words." });
  assert.deepEqual([count(completion.choices[0].text), completion.usage.completion_tokens], [12, 12]);
  const stream = gateway.responses.stream({ model: "sdk/native", input: "Say some words." });
  let text = "";
  for await (const event of stream) text += event.type === "response.output_text.delta" ? event.delta : "";
  assert.equal(count(text), 12);
  const answer = await gateway.responses.create({ model: "sdk/native", input: "Say some words." });
  assert.deepEqual([count(answer.output_text), answer.usage.output_tokens], [12, 12]);
  const events = [];
  for await (const event of await gateway.responses.create({ model: "sdk/native-cut", input: "Hi", stream: true })) events.push(event);
  assert.deepEqual([events.at(-1).type, events.at(-1).sequence_number, events.length], ["error", 8, 9]);
}

async function whatIsPassedOn() {
  const sound = Buffer.from("ID3\0\xff\xfe\r\n\r\ndata: x", "latin1");
  const bytes = async (response) => Buffer.from(await response.arrayBuffer());
  const file = await toFile(Buffer.from("ID3-not-much"), "a.mp3");
  const said = await gateway.audio.transcriptions.create({ file, model: "sdk/plain" });
  assert.equal(said.text, "not much");
  const spoken = await gateway.audio.speech.create({ model: "sdk/sound", voice: "alloy", input: "Not much." });
  assert.deepEqual(await bytes(spoken), sound);
  const lines = await toFile(Buffer.from('{"custom_id":1}'), "a.jsonl");
  const there = new OpenAI({ baseURL: process.env.GATEWAY.replace("/v1", "/sdk/v1"), apiKey: process.env.KEY, maxRetries: 0 });
  for (const { files } of [gateway, there]) {
    assert.equal((await files.create({ file: lines, purpose: "batch" })).id, "file-1");
    assert.deepEqual(await bytes(await files.content("file-1")), sound);
    assert.ok((await files.delete("file-1")).deleted);
  }
}

async function clientAbort() {
  const stream = await gateway.chat.completions.create({ model: "sdk/slow", messages, stream: true });
  let chunks = 0;
  for await (const chunk of stream) {
    assert.ok(chunk.choices);
    chunks += 1;
    if (chunks === 4) break;
  }
}

const checks = [
  completion,
  streamWithoutUsage,
  streamWithUsage,
  toolCallsStreamed,
  jsonSchema,
  models,
  errors,
  waitsAsTold,
  aCutStreamIsAnError,
  completionsAndResponses,
  whatIsPassedOn,
  clientAbort,
];
for (const check of checks) {
  await check();
  console.log("node:", check.name);
}
process.exit(0);
