/** The panel of groups and replicas: which group is ready, what it carries, why not, and what can be done to it. */

import { h, newId } from "/pages/shared/dom.js";
import * as actions from "./actions.js";
import { keep, setText, show, write } from "./elements.js";
import { bytes, count, duration, percent, rate } from "./format.js";
import { createBadge, createMeter, showBreaker, showPhase } from "./phases.js";
import { createReplicas } from "./replicas.js";

const MANY_REPLICAS = 6;

export function createGroups() {
  const list = h("div", { class: "groups" });
  const nothing = h("p", { class: "muted" }, "No group is configured.");
  const root = h(
    "section",
    { class: "panel", "aria-labelledby": "groups-title" },
    h("h2", { id: "groups-title" }, "Groups"),
    list,
    nothing,
  );
  return {
    root,
    update(state) {
      show(nothing, state.groups.length === 0);
      keep(list, state.groups, {
        key: (group) => group.name,
        create: createGroup,
        update: (node, group) => node.follow(group, state.now),
      });
    },
  };
}

function createFigures(titles) {
  const values = titles.map(() => h("dd", { class: "number" }));
  const root = h(
    "dl",
    { class: "figures" },
    titles.map((title, at) => h("div", {}, h("dt", {}, title), values[at])),
  );
  return { root, values };
}

function createActions(name, current) {
  const make = (label, action, title, kind = "") =>
    h(
      "button",
      { type: "button", class: `small ${kind}`, "aria-label": `${label} ${name}`, title, onclick: () => action(current()) },
      label,
    );
  const buttons = {
    wake: make("Wake", actions.wake, "Start this sleeping group", "primary"),
    resume: make("Resume", (group) => actions.resume(group), "Send requests here again"),
    drain: make("Drain", (group) => actions.drain(group), "Send nothing new here; work under way ends"),
    restart: make("Restart", actions.restart, "Replace the replicas one by one"),
    scale: make("Scale", actions.scale, "Set the least and the most replicas"),
  };
  const update = (group) => {
    const phases = group.replicas.map((each) => each.phase);
    show(buttons.wake, group.phase === "asleep");
    show(buttons.resume, phases.includes("draining"));
    show(
      buttons.drain,
      phases.some((phase) => phase !== "draining" && phase !== "failed"),
    );
    show(buttons.restart, phases.length > 0);
    show(buttons.scale, group.bounds !== null);
  };
  return { root: h("div", { class: "row group-actions" }, Object.values(buttons)), update };
}

function createGroup(first) {
  const id = newId("group");
  let group = first;
  const phase = createBadge();
  const breaker = createBadge();
  const about = h("p", { class: "muted small-text" });
  const why = createReason();
  const buttons = createActions(first.name, () => group);
  const { root: figures, values } = createFigures(["Replicas", "Running", "Waiting", "Tokens/s", "KV cache", "Wait"]);
  const kv = createMeter("KV cache");
  values[4].append(kv.root);
  const replicas = createReplicas(first.name, () => group);
  const summary = h("summary", {});
  const details = h("details", { open: first.replicas.length <= MANY_REPLICAS }, summary, replicas.root);
  const root = h(
    "article",
    { class: "group", "aria-labelledby": id, id: `group-${first.name}`, tabIndex: -1 },
    h(
      "div",
      { class: "group-head" },
      h("div", { class: "group-name" }, h("div", { class: "row" }, h("h3", { id }, first.name), phase.root, breaker.root), about),
      figures,
      buttons.root,
    ),
    why.root,
    details,
  );
  root.follow = (latest, now) => {
    group = latest;
    write(root, "data-phase", group.phase);
    showPhase(phase, group.phase);
    showBreaker(breaker, group.breaker);
    show(breaker.root, group.breaker !== "closed");
    setText(about, describe(group));
    why.update(group);
    buttons.update(group);
    showFigures(values, kv, group);
    show(details, group.replicas.length > 0);
    setText(summary, group.replicas.length === 1 ? "1 replica" : `${group.replicas.length} replicas`);
    replicas.update(group, now);
  };
  return root;
}

function createReason() {
  const reason = h("span");
  const root = h("p", { class: "notice group-reason" }, reason);
  const update = (group) => {
    show(root, Boolean(group.reason));
    write(root, "class", `notice group-reason ${group.phase === "failed" ? "bad" : ""}`.trim());
    setText(reason, group.reason ?? "");
  };
  return { root, update };
}

function describe(group) {
  const window = `context ${count(group.context_length)}`;
  return [group.model, [group.engine, group.precision].filter(Boolean).join(" "), window, group.sleeps && "sleeps when idle"]
    .filter(Boolean)
    .join(" · ");
}

function showFigures([ready, running, waiting, tokens, , wait], kv, group) {
  const bounds = group.bounds
    ? group.bounds.min === group.bounds.max
      ? `of ${group.bounds.max}`
      : `of ${group.bounds.min}–${group.bounds.max}`
    : "";
  setText(ready, `${group.ready_replicas} ${bounds}`.trim());
  setText(running, group.capacity ? `${count(group.running)} of ${count(group.capacity)}` : count(group.running));
  setText(waiting, group.backlog_tokens ? `${count(group.waiting)} (${count(group.backlog_tokens)} tok)` : count(group.waiting));
  write(waiting, "class", group.waiting ? "number warn-text" : "number");
  setText(tokens, rate(group.tokens_per_second));
  const part = group.kv_total_tokens ? group.kv_used_tokens / group.kv_total_tokens : null;
  kv.set(part, percent(part));
  write(
    kv.root,
    "title",
    group.kv_total_tokens
      ? `${count(group.kv_used_tokens)} of ${count(group.kv_total_tokens)} tokens, ${bytes(group.kv_bytes)}`
      : "no figure",
  );
  setText(wait, duration(group.estimated_wait_s));
}
