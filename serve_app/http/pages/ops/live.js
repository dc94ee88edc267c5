/** The panel of requests under way, the oldest first. */

import { h } from "/pages/shared/dom.js";
import { cancelRequest } from "./actions.js";
import { setText, write } from "./elements.js";
import { age, count, plural } from "./format.js";
import { createTable } from "./table.js";

const SHOWN = 100;

export function createLive() {
  let state = null;
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the live requests", id: "live-filter" });
  const note = h("p", { class: "muted small-text", role: "status" });
  const table = createTable({
    label: "Live requests",
    key: (request) => `${request.ingress} ${request.id}`,
    empty: "No request is under way.",
    columns: [
      { title: "Request", wide: true, make: (cell) => cell.classList.add("mono"), show: (request) => request.id },
      { title: "Age", number: true, show: (request) => age(request.age_s) },
      { title: "Phase", show: (request) => request.phase },
      { title: "Group", show: (request) => request.group ?? "none yet" },
      { title: "Why there", show: (request) => describeReason(request) },
      { title: "Task", show: (request) => request.task ?? "–" },
      { title: "Key", show: (request) => request.key },
      { title: "Model", minor: true, show: (request) => request.model },
      { title: "Prompt", number: true, show: (request) => count(request.prompt_tokens) },
      { title: "Made", number: true, show: (request) => count(request.completion_tokens) },
      { title: "Ingress", minor: true, show: (request) => request.ingress },
      { title: "", make: makeCancel, show: showCancel },
    ],
  });
  const root = h(
    "section",
    { class: "panel", "aria-labelledby": "live-title" },
    h(
      "div",
      { class: "row spread panel-head" },
      h("div", { class: "row" }, h("h2", { id: "live-title" }, "Live requests"), note),
      filter,
    ),
    table.root,
  );
  const render = () => {
    if (!state) return;
    const text = filter.value.trim().toLowerCase();
    const found = state.live.filter((request) => matches(request, text));
    table.update(found.slice(0, SHOWN));
    setText(
      note,
      [
        text ? `${found.length} of ${state.live.length}` : plural(found.length, "request"),
        found.length > SHOWN && `the oldest ${SHOWN} are shown`,
      ]
        .filter(Boolean)
        .join(", "),
    );
  };
  filter.addEventListener("input", render);
  return {
    root,
    update(latest) {
      state = latest;
      render();
    },
  };
}

const FIELDS = ["id", "key", "model", "task", "group", "reason", "phase", "ingress", "outcome"];

/** Return whether a request, live or finished, holds a text (lower case) in one of its names. */
export const matches = (request, text) => !text || FIELDS.some((field) => request[field]?.toLowerCase().includes(text));

/** Why a request is where it is, with the number of attempts if it took several. */
export function describeReason(request) {
  const attempts = request.attempts > 1 ? `, ${request.attempts} attempts` : "";
  return `${request.reason ?? "–"}${attempts}`;
}

function makeCancel(cell, current) {
  cell.button = h("button", { type: "button", class: "small quiet", onclick: () => cancelRequest(current()) }, "Cancel");
  cell.append(cell.button);
}

function showCancel(request, cell) {
  write(cell.button, "aria-label", `Cancel ${request.id}`);
}
