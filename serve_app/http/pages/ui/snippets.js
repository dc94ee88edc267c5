// Writes a request as code that repeats it. The API key is never in it.

import { getKey } from "/pages/shared/api.js";

const KEY_NAME = "PHI_SERVE_API_KEY";

/** Return the request as a curl command. */
export function asCurl(body, headers) {
  return curl("/v1/chat/completions", body, headers);
}

/** Return the request as Python with OpenAI's client. */
export function asPython(body, headers) {
  const { model, messages, ...rest } = body;
  const known = new Set(["temperature", "top_p", "max_tokens", "seed", "stop", "stream", "logprobs", "top_logprobs", "tools", "tool_choice", "response_format"]);
  const extra = Object.fromEntries(Object.entries(rest).filter(([name]) => !known.has(name)));
  const given = Object.entries(rest).filter(([name, value]) => known.has(name) && !(name === "stream" && !value));
  const lines = [["model", model], ["messages", messages], ...given, ["extra_headers", given && present(headers)], ["extra_body", extra]];
  const shown = lines.filter(([, value]) => !isEmpty(value)).map(([name, value]) => `    ${name}=${python(value, 1)},`);
  const reading = body.stream
    ? 'for chunk in answer:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)'
    : "print(answer.choices[0].message.content)";
  const key = getKey() ? `os.environ["${KEY_NAME}"]` : '"unused"';
  return [
    ...(getKey() ? ["import os", ""] : []), "from openai import OpenAI", "", `client = OpenAI(base_url="${location.origin}/v1", api_key=${key})`,
    "answer = client.chat.completions.create(", ...shown, ")", reading, "",
  ].join("\n");
}

/** Return the request for Ollama's API, as a curl command. */
export function asOllama(body, headers) {
  const { model, messages, tools, response_format: format, stream, max_tokens: limit, ...rest } = body;
  const options = Object.fromEntries(["temperature", "top_p", "seed", "stop"].filter((name) => name in rest).map((name) => [name, rest[name]]));
  if (limit !== undefined) options.num_predict = limit;
  const sent = { model, messages, stream: stream !== false };
  if (tools) sent.tools = tools;
  if (format) sent.format = format.json_schema?.schema ?? "json";
  if (Object.keys(options).length) sent.options = options;
  return curl("/api/chat", sent, headers);
}

function curl(path, body, headers) {
  const sent = { "content-type": "application/json", ...present(headers) };
  const lines = Object.entries(sent).map(([name, value]) => `  -H ${shell(`${name}: ${value}`)}`);
  if (getKey()) lines.push(`  -H "authorization: Bearer $${KEY_NAME}"`);
  return [`curl -N ${location.origin}${path}`, ...lines, `  -d ${shell(JSON.stringify(body))}`].join(" \\\n");
}

function present(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([, value]) => value));
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function isEmpty(value) {
  return value === undefined || (typeof value === "object" && value !== null && !Object.keys(value).length);
}

/** Return a JSON value as a Python literal. */
export function python(value, depth = 0) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value).replace(/\u007f/g, "\\x7f");
  const [opening, closing] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((each) => python(each, depth + 1))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each, depth + 1)}`);
  const line = `${opening}${items.join(", ")}${closing}`;
  if (line.length < 90 && !line.includes("\n")) return line;
  const indent = "    ".repeat(depth);
  return `${opening}\n${items.map((item) => `${indent}    ${item},\n`).join("")}${indent}${closing}`;
}
