/** The view of the effective configuration: a tree that can be searched, and its differences from a file. */

import { field, h, replace } from "/pages/shared/dom.js";
import { setText, show } from "./elements.js";
import { plural } from "./format.js";
import { read, call } from "./session.js";
import { createTable } from "./table.js";

export function createConfiguration() {
  const search = h("input", { type: "search", placeholder: "Path or value", "aria-label": "Search the configuration" });
  const note = h("p", { class: "muted small-text", role: "status" });
  const fault = h("p", { class: "fault", role: "alert" });
  const tree = h("div", { class: "tree mono" });
  const refresh = h("button", { type: "button", class: "small", onclick: () => load() }, "Refresh");
  const fold = h("button", { type: "button", class: "small", onclick: () => toggle() }, "Fold");
  const diff = createDiff();
  const shownRoot = h(
    "section",
    { class: "panel", "aria-labelledby": "configuration-title" },
    h(
      "div",
      { class: "row spread panel-head" },
      h("div", { class: "row" }, h("h2", { id: "configuration-title" }, "Effective configuration"), note),
      h("div", { class: "row" }, search, fold, refresh),
    ),
    h("p", { class: "muted small-text" }, "What runs now, with every default. Secrets are left out by the server."),
    fault,
    tree,
  );
  let lines = [];
  let loaded = false;
  const filter = () => {
    const text = search.value.trim().toLowerCase();
    const number = markMatches(lines, text);
    const all = plural(lines.filter((each) => each.leaf).length, "setting");
    setText(note, text ? `${number} of ${all}` : all);
  };
  /** Fold all below the first two levels, or unfold all. */
  function toggle() {
    const folds = fold.textContent === "Fold";
    for (const each of lines) if (!each.leaf && each.parent) each.node.open = !folds;
    setText(fold, folds ? "Unfold" : "Fold");
  }
  async function load() {
    loaded = true;
    try {
      const found = await read("/configuration");
      lines = [];
      replace(tree, build("args", found.args, "", lines));
      setText(fault, "");
      filter();
    } catch (error) {
      loaded = false;
      setText(fault, `The configuration could not be read: ${error.message}`);
    }
  }
  search.addEventListener("input", filter);
  return { root: h("div", { class: "side-by-side" }, shownRoot, diff), open: () => loaded || load() };
}

/** Build the node of one setting; adds {path, text, node, parent, leaf} of it and all below to `lines`. */
function build(name, value, above, lines, parent = null) {
  const path = above && !name.startsWith("[") ? `${above}.${name}` : above + name;
  const line = { path, parent, leaf: isLeaf(value) };
  lines.push(line);
  const key = h("span", { class: "tree-key" }, `${name}: `);
  if (line.leaf) {
    const words = spell(value);
    line.text = `${path}: ${words}`.toLowerCase();
    line.node = h(
      "div",
      { class: "tree-line", title: path },
      key,
      h("span", { class: value === null ? "tree-null" : "tree-value" }, words),
    );
    return line.node;
  }
  line.text = path.toLowerCase();
  const children = Object.entries(value).map(([below, each]) =>
    build(Array.isArray(value) ? `[${below}]` : below, each, path, lines, line),
  );
  line.node = h(
    "details",
    { open: true },
    h("summary", { title: path }, key, h("span", { class: "muted" }, String(children.length))),
    children,
  );
  return line.node;
}

const isScalar = (value) => value === null || typeof value !== "object";
const isLeaf = (value) => isScalar(value) || Object.keys(value).length === 0 || (Array.isArray(value) && value.every(isScalar));

/** Write a leaf as YAML would; texts that YAML would read otherwise are quoted. */
function spell(value) {
  if (Array.isArray(value)) return `[${value.map(spell).join(", ")}]`;
  if (typeof value === "string" && /^[A-Za-z/~][\w./~ -]*$/.test(value) && !/^(true|false|null|yes|no|on|off)$/i.test(value))
    return value;
  return JSON.stringify(value);
}

/** Show only the lines that hold the text, and what they stand in; return how many hold it. */
function markMatches(lines, text) {
  const hits = lines.filter((each) => each.leaf && (!text || each.text.includes(text)));
  const kept = new Set();
  for (const hit of hits) for (let each = hit; each && !kept.has(each); each = each.parent) kept.add(each);
  for (const each of lines) {
    show(each.node, kept.has(each));
    if (text && !each.leaf && kept.has(each)) each.node.open = true;
  }
  return hits.length;
}

function createDiff() {
  const text = h("textarea", { class: "code", rows: 8, spellcheck: "false", placeholder: "Paste a serve_config.yaml" });
  const file = h("input", { type: "file", accept: ".yaml,.yml,text/yaml" });
  const fault = h("p", { class: "fault", role: "alert" });
  const note = h("p", { class: "muted small-text", role: "status" });
  const go = h("button", { type: "submit", class: "primary" }, "Compare");
  const table = createTable({
    label: "Differences",
    scrolls: true,
    key: (row) => row.path,
    empty: "",
    columns: [
      { title: "Setting", make: (cell) => cell.classList.add("mono"), show: (row) => row.path },
      { title: "Running", make: (cell) => cell.classList.add("mono", "removed"), show: (row) => write(row.running) },
      { title: "In the file", make: (cell) => cell.classList.add("mono", "added"), show: (row) => write(row.file) },
    ],
  });
  table.root.hidden = true;
  const form = h(
    "form",
    { class: "stack tight" },
    field("Text", text),
    field("Or a file", file),
    fault,
    h("div", { class: "row" }, go, note),
  );
  file.addEventListener("change", async () => {
    if (file.files[0]) text.value = await file.files[0].text();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(fault, "");
    setText(note, "");
    go.disabled = true;
    try {
      const response = await call("/configuration/diff", {
        method: "POST",
        body: text.value,
        headers: { "content-type": "application/yaml" },
      });
      const { changes } = await response.json();
      table.update(changes);
      show(table.root, changes.length > 0);
      setText(note, changes.length ? plural(changes.length, "difference") : "No difference: the file says what runs.");
    } catch (error) {
      show(table.root, false);
      setText(fault, error.message);
    } finally {
      go.disabled = false;
    }
  });
  return h(
    "section",
    { class: "panel", "aria-labelledby": "diff-title" },
    h("h2", { id: "diff-title" }, "Compare with a file"),
    h("p", { class: "muted small-text" }, "What would change if this file were deployed. Nothing is changed here."),
    form,
    table.root,
  );
}

const write = (value) => (value === undefined || value === null ? "not set" : JSON.stringify(value)); // a whole section may be on one side only
