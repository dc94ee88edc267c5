/** The view of finished requests of every ingress: filters, pages, and the way to one request's story. */

import { field, h } from "/pages/shared/dom.js";
import { keep, setText, show, write } from "./elements.js";
import { clock, count, duration, plural, rate } from "./format.js";
import { describeReason, matches } from "./live.js";
import { kindOfOutcome, createBadge } from "./phases.js";
import { openRequest } from "./request-detail.js";
import { read } from "./session.js";
import { nameOf } from "./store.js";
import { createTable } from "./table.js";

const PAGE = 50;
const ORDERS = {
  newest: ["newest first", (a, b) => b.at - a.at],
  slowest: ["slowest first", (a, b) => b.seconds - a.seconds],
  first: ["latest first token first", (a, b) => (b.first_token_s ?? -1) - (a.first_token_s ?? -1)],
  tokens: ["most tokens first", (a, b) => cost(b) - cost(a)],
};
const cost = (request) => request.prompt_tokens + request.completion_tokens;
const CHOICES = { outcome: "Outcome", group: "Group", task: "Task", model: "Model", key: "Key" };

export function createRequests(store) {
  let page = 0;
  /** What is shown; it stays as it is while someone reads. */
  let source = store.finished;
  let loaded = false;
  const text = h("input", { type: "search", placeholder: "Id, key, model…", autocomplete: "off", spellcheck: "false" });
  const selects = Object.fromEntries(
    Object.keys(CHOICES).map((name) => [name, h("select", {}, h("option", { value: "" }, "all"))]),
  );
  const order = h(
    "select",
    {},
    Object.entries(ORDERS).map(([name, [words]]) => h("option", { value: name }, words)),
  );
  const clear = h("button", { type: "reset", class: "quiet" }, "Clear");
  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filter the requests" },
    field("Text", text),
    Object.entries(CHOICES).map(([name, title]) => field(title, selects[name])),
    field("Order", order),
    clear,
  );
  const note = h("p", { class: "muted small-text", role: "status", id: "requests-note" });
  const fault = h("p", { class: "fault", role: "alert" });
  const news = h("button", { type: "button", class: "small", onclick: () => follow() });
  const look = h("button", { type: "button", class: "small", onclick: () => openRequest(text.value.trim()) });
  const table = createTable({
    label: "Finished requests",
    key: nameOf,
    empty: "No request matches.",
    columns: listColumns(),
    mark: (request) => kindOfOutcome(request.outcome),
  });
  const previous = h("button", { type: "button", class: "small", onclick: () => turn(-1) }, "Previous");
  const next = h("button", { type: "button", class: "small", onclick: () => turn(1) }, "Next");
  const place = h("span", { class: "number small-text" });
  const root = h(
    "section",
    { class: "panel", "aria-labelledby": "requests-title" },
    h(
      "div",
      { class: "row spread panel-head" },
      h("div", { class: "row" }, h("h2", { id: "requests-title" }, "Finished requests"), note),
      h("div", { class: "row" }, look, news),
    ),
    form,
    fault,
    table.root,
    h("nav", { class: "row end pager", "aria-label": "Pages of requests" }, previous, place, next),
  );

  /** New rows move the others: not while someone is in the table, on a later page, or reads a story. */
  const busy = () =>
    page > 0 ||
    table.root.matches(":hover") ||
    table.root.contains(document.activeElement) ||
    document.querySelector("dialog[open]") !== null;
  function follow() {
    source = store.finished;
    page = 0;
    render();
  }
  function turn(step) {
    page += step;
    render();
  }
  function select() {
    const words = text.value.trim().toLowerCase();
    const chosen = Object.entries(selects).filter(([, each]) => each.value);
    return source
      .filter((request) => matches(request, words) && chosen.every(([name, each]) => String(request[name]) === each.value))
      .sort(ORDERS[order.value][1]);
  }
  function render() {
    offer(selects, store.finished);
    const found = select();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    table.update(found.slice(page * PAGE, (page + 1) * PAGE));
    setText(
      note,
      found.length === source.length
        ? plural(found.length, "request")
        : `${count(found.length)} of ${plural(source.length, "request")}`,
    );
    setText(place, `page ${page + 1} of ${pages}`);
    previous.disabled = page === 0;
    next.disabled = page >= pages - 1;
    const behind = source.length ? store.finished.indexOf(source[0]) : 0;
    show(news, behind > 0);
    setText(news, `Show ${count(behind)} new`);
    const id = text.value.trim();
    show(look, found.length === 0 && /^\S+$/.test(id));
    setText(look, `Look up ${id}`);
  }
  form.addEventListener("input", () => {
    page = 0;
    render();
  });
  form.addEventListener("reset", () => requestAnimationFrame(follow));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!look.hidden) look.click();
  });
  return {
    root,
    update() {
      if (!busy() || source.length === 0) source = store.finished;
      render();
    },
    /** Fetch the long list, once until `forget`. */
    async load() {
      if (loaded) return;
      loaded = true;
      try {
        store.addFinished((await read("/requests?limit=1000")).data);
        setText(fault, "");
        if (page === 0) follow();
      } catch (error) {
        loaded = false;
        setText(fault, `The requests could not be read: ${error.message}`);
      }
    },
    forget() {
      loaded = false;
    },
    /** Show the requests of a task and a group. */
    filter(values) {
      form.reset();
      offer(selects, store.finished, values);
      for (const [name, value] of Object.entries(values)) selects[name].value = value;
      follow();
    },
  };
}

/** Offer in each list what occurs; what is chosen stays chosen. */
function offer(selects, requests, extra = {}) {
  for (const [name, select] of Object.entries(selects)) {
    const values = new Set(requests.map((each) => String(each[name] ?? "")));
    values.add(select.value).add(extra[name] ?? "");
    const list = [...values].filter(Boolean).sort();
    if (select.offered === list.join("\n")) continue;
    select.offered = list.join("\n");
    const chosen = select.value;
    select.replaceChildren(h("option", { value: "" }, "all"), ...list.map((value) => h("option", { value }, value)));
    select.value = chosen;
  }
}

function listColumns() {
  return [
    { title: "Ended", number: true, show: (request) => clock(request.at) },
    { title: "Request", wide: true, make: makeLink, show: showLink },
    {
      title: "Outcome",
      make: makeOutcome,
      show: (request, cell) => cell.badge.set(kindOfOutcome(request.outcome), request.outcome),
    },
    { title: "Group", show: (request) => request.group ?? "none" },
    { title: "Why there", show: describeReason },
    { title: "Task", show: (request) => request.task ?? "–" },
    { title: "Key", make: clip, show: (request, cell) => showClipped(request.key, cell) },
    { title: "Model", minor: true, make: clip, show: (request, cell) => showClipped(request.model, cell) },
    { title: "Prompt", number: true, show: showPrompt },
    { title: "Made", number: true, show: (request) => count(request.completion_tokens) },
    { title: "First token", number: true, show: (request) => duration(request.first_token_s) },
    { title: "Total", number: true, show: (request) => duration(request.seconds) },
    { title: "Tokens/s", number: true, minor: true, show: (request) => rate(request.tokens_per_second) },
  ];
}

function makeLink(cell, current) {
  cell.link = h("button", { type: "button", class: "link mono", onclick: () => openRequest(current().id, current()) });
  cell.append(cell.link);
}

function showLink(request, cell) {
  setText(cell.link, request.id);
}

function clip(cell) {
  cell.classList.add("clipped");
}

function showClipped(text, cell) {
  write(cell, "title", text);
  return text;
}

function makeOutcome(cell) {
  cell.badge = createBadge();
  cell.append(cell.badge.root);
}

function showPrompt(request, cell) {
  write(cell, "title", `${count(request.cached_tokens)} of them cached`);
  return count(request.prompt_tokens);
}
