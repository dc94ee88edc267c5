// The first page: what runs here, where to go, and the addresses for clients.

import { getJson } from "/pages/shared/api.js";
import { byId, copyButton, h, replace } from "/pages/shared/dom.js";
import { formatNumber } from "/pages/shared/format.js";
import { buildHeader } from "/pages/shared/frame.js";

const EVERY_MS = 5000;
const STATUSES = {
  healthy: ["good", "Everything is ready"],
  degraded: ["warn", "Some groups are not ready"],
  not_ready: ["warn", "Starting"],
  failed: ["bad", "No model can be served"],
  unreachable: ["bad", "The server does not answer"],
};
const DOORS = [
  ["/ui", "Playground", "Chat, compare groups, try tools, schemas and prompts."],
  ["/ops", "Operations", "Replicas, requests and load as they are now."],
  ["/docs", "API reference", "Every endpoint of every API, with examples."],
];

const status = h("span", { class: "badge" }, "…");
const models = h("p", { class: "muted" });
const groups = h("div", { class: "groups" });
const sample = h("code", {});
let shownGroups = "";

function build() {
  buildHeader("/");
  replace(
    byId("main"),
    h("div", { class: "intro" }, h("div", { class: "row" }, h("h1", {}, "phi-serve"), h("span", { role: "status" }, status)),
      h("p", { class: "lead" }, "One endpoint in front of several inference engines. Speaks OpenAI’s, Anthropic’s and Ollama’s APIs.")),
    h("nav", { class: "doors", "aria-label": "Start here" }, DOORS.map(([path, name, what]) => h("a", { class: "door", href: path }, h("strong", {}, name), h("span", {}, what)))),
    h("section", { class: "card", "aria-labelledby": "running" }, h("h2", { id: "running" }, "Running here"), models, groups),
    h("section", { class: "card", "aria-labelledby": "addresses" }, h("h2", { id: "addresses" }, "Base addresses"), buildAddresses()),
    h("section", { class: "card", "aria-labelledby": "try" }, h("h2", { id: "try" }, "Try it"), h("div", { class: "sample" }, h("pre", {}, sample), copyButton(() => sample.textContent))),
  );
  showSample("");
}

function buildAddresses() {
  const rows = [["OpenAI", `${location.origin}/v1`], ["Ollama", location.origin], ["Anthropic", location.origin]];
  return h("div", { class: "addresses" }, rows.map(([name, address]) => [
    h("span", { class: "of" }, name), h("code", {}, address), copyButton(() => address, "Copy", { "aria-label": `Copy the address for ${name}` }),
  ]));
}

function showSample(model) {
  const body = JSON.stringify({ model: model || "MODEL", messages: [{ role: "user", content: "What is 15% of 240?" }] });
  sample.textContent = `curl ${location.origin}/v1/chat/completions \\\n  -H 'content-type: application/json' \\\n  -d '${body}'`;
}

async function refresh() {
  let health;
  try {
    health = await getJson("/health", { accept: [503] });
  } catch {
    health = { status: "unreachable" };
  }
  const [tone, text] = STATUSES[health.status] ?? ["", health.status];
  status.className = `badge ${tone}`;
  if (status.textContent !== text) status.textContent = text;
  if (!health.groups) return;
  showSample(health.model);
  const names = Object.keys(health.models ?? {});
  models.textContent = names.length ? `${names.length === 1 ? "Model" : "Models"}: ${names.join(", ")}` : "";
  models.hidden = !names.length;
  const shown = JSON.stringify(health.groups);
  if (shown !== shownGroups) replace(groups, Object.entries(health.groups).map(([name, group]) => buildGroup(name, group)));
  shownGroups = shown;
}

function buildGroup(name, group) {
  const tone = group.phase === "ready" ? "good" : group.phase === "failed" ? "bad" : "warn";
  const facts = [
    group.engine, group.precision && group.precision !== "none" ? group.precision : "", group.replicas ? `${group.replicas} ${group.replicas === 1 ? "replica" : "replicas"}` : "",
    group.context_length ? `${formatNumber(group.context_length)} tokens of context` : "", group.reason,
  ];
  return h("div", { class: "group" }, h("span", { class: "name" }, h("span", { class: `dot ${tone}`, "aria-hidden": "true" }), name),
    h("span", { class: "what" }, facts.filter(Boolean).join(" · ")), h("span", { class: `badge ${tone}` }, group.phase));
}

build();
await refresh();
setInterval(() => document.hidden || refresh(), EVERY_MS);
