// The API reference, drawn from /openapi.json: endpoints by API, with parameters, bodies, answers, errors and an example.

import { getJson, getKey } from "/pages/shared/api.js";
import { append, byId, copyButton, copyText, field, h, replace } from "/pages/shared/dom.js";
import { buildHeader, withKey } from "/pages/shared/frame.js";
import { buildExample, SchemaTree, withCode } from "/pages/docs/schema.js";
import { SUMMARIES } from "/pages/docs/summaries.js";

const NAMES = { openai: "OpenAI", anthropic: "Anthropic", ollama: "Ollama", reasoning: "Reasoning", health: "Status and operations" };
const ABOUT = {
  openai: ["Base address", "/v1"],
  anthropic: ["Base address", ""],
  ollama: ["Base address", ""],
};

/** Paths that several APIs have are described once, under one of them; readers look for these elsewhere. */
const GROUPS = { "/v1/models": "openai", "/v1/models/{model}": "openai", "/": "health" };

let endpoints = [];

async function start() {
  buildHeader("/docs", { showKey: true });
  document.addEventListener("key-changed", load);
  addEventListener("hashchange", openTarget);
  await load();
}

async function load() {
  const main = byId("main");
  let spec;
  try {
    spec = await withKey(() => getJson("/openapi.json"));
  } catch (error) {
    const why = error.status === 401 ? "This server asks for an API key before it shows its API." : error.status === 503 || error.status === 404 ? `The description is there when a model can be served. ${error.message}` : error.message;
    replace(main, h("h1", {}, "API reference"), h("p", { class: "notice warn", role: "alert" }, why), h("div", {}, h("button", { type: "button", onclick: load }, "Try again")));
    return;
  }
  endpoints = listEndpoints(spec);
  const filter = h("input", { type: "search", placeholder: "Path, method or word", autocomplete: "off" });
  const count = h("p", { class: "hint", role: "status" });
  filter.addEventListener("input", () => applyFilter(filter.value, count));
  const groups = groupBy(endpoints, (each) => each.group);
  replace(main,
    h("div", { class: "stack tight" }, h("h1", {}, "API reference"), h("p", { class: "muted" }, `${spec.info.title} ${spec.info.version}. The same as a document: `, h("a", { href: "/openapi.json" }, "/openapi.json"), "."), buildSecurity(spec)),
    h("div", { class: "filter" }, field("Filter", filter), count),
    [...groups].map(([group, members]) => buildGroup(group, members, spec)));
  replace(document.querySelector(".contents"), [...groups].map(([group, members]) => h("div", { class: "contents-group" }, h("a", { href: `#${group}`, class: "contents-title" }, NAMES[group] ?? group),
    h("ul", {}, members.map((each) => h("li", { dataset: { id: each.id } }, h("a", { href: `#${each.id}` }, h("span", { class: `method ${each.method}` }, each.method.toUpperCase()), h("span", { class: "path" }, each.path))))))));
  applyFilter("", count);
  openTarget();
}

function listEndpoints(spec) {
  const found = [];
  for (const [path, verbs] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(verbs)) {
      const group = GROUPS[path] ?? operation.tags?.[0] ?? "other";
      const words = JSON.stringify([summarize(operation), operation.description, operation.parameters?.map((each) => [each.name, each.description])]) ?? "";
      found.push({ id: operation.operationId, path, method, operation, group, words: `${method} ${path} ${group} ${words}`.toLowerCase() });
    }
  }
  const order = Object.keys(NAMES);
  const rank = (group) => (order.includes(group) ? order.indexOf(group) : order.length);
  return found.sort((a, b) => rank(a.group) - rank(b.group));
}

function groupBy(items, key) {
  const found = new Map();
  for (const item of items) found.set(key(item), [...(found.get(key(item)) ?? []), item]);
  return found;
}

function buildSecurity(spec) {
  const schemes = Object.values(spec.components?.securitySchemes ?? {});
  if (!schemes.length) return null;
  return h("p", { class: "muted" }, "Where the server asks for keys: ", h("code", {}, "Authorization: Bearer KEY"), " or ", h("code", {}, "x-api-key: KEY"), ".");
}

function buildGroup(group, members, spec) {
  const about = ABOUT[group];
  return h("section", { class: "api", "aria-labelledby": group }, h("h2", { id: group }, NAMES[group] ?? group),
    about && h("p", { class: "muted small-text" }, `${about[0]}: `, h("code", {}, location.origin + about[1])), members.map((each) => buildEndpoint(each, spec)));
}

function buildEndpoint(each, spec) {
  const body = h("div", { class: "endpoint-body" });
  const node = h("details", { class: "endpoint card", id: each.id, dataset: { id: each.id } },
    h("summary", {}, h("h3", {}, h("span", { class: `method ${each.method}` }, each.method.toUpperCase()), h("code", { class: "path" }, each.path)), h("span", { class: "muted what" }, summarize(each.operation))), body);
  // A description is drawn when it is opened for the first time: there are many.
  node.addEventListener("toggle", () => {
    if (node.open && !body.hasChildNodes()) append(body, fillEndpoint(each, spec));
  });
  each.node = node;
  return node;
}

function summarize(operation) {
  return operation.summary ?? SUMMARIES[operation.operationId] ?? "";
}

function fillEndpoint(each, spec) {
  const { operation } = each;
  const tree = new SchemaTree(spec);
  const content = Object.entries(operation.requestBody?.content ?? {});
  const answers = Object.entries(operation.responses ?? {});
  const good = answers.filter(([status]) => status < "400");
  const bad = answers.filter(([status]) => status >= "400");
  return [
    operation.description && h("p", {}, withCode(operation.description)),
    part("Example", buildCurl(each, spec), copyLink(each.id)),
    operation.parameters?.length && part("Parameters", buildParameters(operation.parameters, tree)),
    content.length > 0 && part("Body", content.map(([type, { schema }]) => h("div", { class: "stack tight" }, h("code", { class: "muted" }, type), tree.build(schema)))),
    part("Answer", good.map(([status, answer]) => buildAnswer(status, answer, tree))),
    bad.length > 0 && part("Errors", buildErrors(bad, tree)),
  ];
}

function part(title, ...content) {
  return h("section", { class: "part" }, h("h4", {}, title), content.flat());
}

function copyLink(id) {
  const button = h("button", { type: "button", class: "small quiet link" }, "Copy link");
  button.addEventListener("click", async () => {
    history.replaceState(null, "", `#${id}`);
    await copyText(location.href);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy link"), 1500);
  });
  return button;
}

function buildParameters(parameters, tree) {
  const rows = parameters.map((each) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, each.name), each.required && h("span", { class: "required" }, " required")),
    h("td", {}, each.in), h("td", {}, tree.name(each.schema ?? {})), h("td", {}, withCode(each.description ?? ""))));
  return h("div", { class: "table-wrap", tabindex: "0", role: "group", "aria-label": "Parameters" }, h("table", {}, h("thead", {}, h("tr", {}, ["Name", "In", "Type", "What it does"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}

function buildAnswer(status, answer, tree) {
  const content = Object.entries(answer.content ?? {});
  return h("div", { class: "answer" }, h("span", { class: "badge good" }, status), h("span", {}, answer.description), content.map(([type, { schema }]) =>
    h("div", { class: "answer-form" }, h("code", {}, type), schema?.description && h("span", { class: "muted" }, schema.description), tree.isOpen(schema) ? null : tree.build(schema))));
}

function buildErrors(errors, tree) {
  const schema = errors.map(([, answer]) => answer.content?.["application/json"]?.schema).find(Boolean);
  return [
    h("table", {}, h("caption", { class: "visually-hidden" }, "Errors"), h("tbody", {}, errors.map(([status, answer]) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: "badge bad" }, status)), h("td", {}, answer.description))))),
    schema && h("details", {}, h("summary", { class: "small-text muted" }, "Form of an error"), tree.build(schema)),
  ];
}

function buildCurl({ path, method, operation }, spec) {
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${location.origin}${path.replace(/\{(\w+)\}/g, (_, name) => name.toUpperCase())}`];
  if (getKey()) lines.push('  -H "authorization: Bearer $PHI_SERVE_API_KEY"');
  const [type, body] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (type === "application/json") {
    lines.push("  -H 'content-type: application/json'", `  -d '${JSON.stringify(buildExample(body.schema, spec)).replaceAll("'", "'\\''")}'`);
  } else if (type) lines.push("  --data-binary @FILE");
  const text = lines.join(" \\\n").replace("-X HEAD", "-I");
  return h("div", { class: "sample" }, h("pre", { tabindex: "0" }, h("code", {}, text)), copyButton(() => text, "Copy", { "aria-label": "Copy the example" }));
}

function applyFilter(text, count) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const each of endpoints) {
    const fits = words.every((word) => each.words.includes(word));
    shown += fits;
    for (const node of document.querySelectorAll(`[data-id="${CSS.escape(each.id)}"]`)) node.hidden = !fits;
  }
  for (const section of document.querySelectorAll("section.api")) section.hidden = !section.querySelector(".endpoint:not([hidden])");
  for (const group of document.querySelectorAll(".contents-group")) group.hidden = !group.querySelector("li:not([hidden])");
  count.textContent = `${shown} of ${endpoints.length} endpoints`;
}

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  for (const link of document.querySelectorAll(".contents a")) link.removeAttribute("aria-current");
  document.querySelector(`.contents a[href="#${CSS.escape(target.id)}"]`)?.setAttribute("aria-current", "true");
  target.scrollIntoView();
}

await start();
