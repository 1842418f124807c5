// Sends one request of each kind with the client libraries, whose limit on silence is short, and prints the texts.
// Arguments: the address of the gateway, and the limit in milliseconds.
import Anthropic from "@anthropic-ai/sdk";
import { Ollama } from "ollama";
import OpenAI, { toFile } from "openai";
import { Agent, fetch } from "undici";

const [address, limit] = [process.argv[2], Number(process.argv[3])];
const dispatcher = new Agent({ headersTimeout: limit, bodyTimeout: limit });
const limited = (url, options) => fetch(url, { ...options, dispatcher });
const openai = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0, fetch: limited });
const anthropic = new Anthropic({ baseURL: address, apiKey: "none", maxRetries: 0, fetch: limited });
const ollama = new Ollama({ host: address, fetch: limited });
const messages = [{ role: "user", content: "hi" }];

async function openaiStream() {
  let text = "";
  for await (const part of await openai.chat.completions.create({ model: "qwen3", messages, stream: true })) {
    text += part.choices[0]?.delta?.content ?? "";
  }
  return text;
}

async function openaiPlain() {
  return (await openai.chat.completions.create({ model: "qwen3", messages })).choices[0].message.content;
}

async function anthropicStream() {
  let text = "";
  const stream = anthropic.messages.stream({ model: "qwen3", messages, max_tokens: 10 });
  stream.on("text", (part) => (text += part));
  await stream.finalMessage();
  return text;
}

async function anthropicPlain() {
  return (await anthropic.messages.create({ model: "qwen3", messages, max_tokens: 10 })).content[0].text;
}

async function anthropicUnknown() {
  const refused = await anthropic.messages.create({ model: "nothing", messages, max_tokens: 10 }).catch((error) => error);
  return `${refused.status} ${refused.error?.error?.type}`;
}

async function ollamaStream() {
  let text = "";
  for await (const part of await ollama.chat({ model: "gemma3", messages, stream: true })) {
    text += part.message.content;
  }
  return text;
}

async function ollamaPlain() {
  return (await ollama.generate({ model: "gemma3", prompt: "hi" })).response;
}

async function ollamaList() {
  return (await ollama.list()).models.map((one) => one.name).join(" ");
}

async function openaiUpload() {
  const file = await toFile(Buffer.alloc(3 << 20), "a.wav");
  // Uploads get no sign of life, so this one has the default limits of fetch.
  const patient = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
  return (await patient.audio.transcriptions.create({ file, model: "org/phi-4" })).text;
}

const work = {
  openaiStream, openaiPlain, anthropicStream, anthropicPlain, anthropicUnknown, ollamaStream, ollamaPlain, ollamaList, openaiUpload,
};
const found = await Promise.all(
  Object.entries(work).map(async ([name, one]) => [name, await one().catch((error) => `failed: ${error} ${error.cause}`)]),
);
console.log(JSON.stringify(Object.fromEntries(found)));
await dispatcher.close();
