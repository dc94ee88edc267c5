/** The replicas of one group: phase and its history, place, memory, load, health. */

import { h } from "/pages/shared/dom.js";
import * as actions from "./actions.js";
import { setText, show, write } from "./elements.js";
import { age, bytes, count, percent, rate } from "./format.js";
import { createBadge, createMeter, createTimeline, showBreaker, showPhase } from "./phases.js";
import { createTable } from "./table.js";

/** `group()` returns the group as it is now. */
export function createReplicas(name, group) {
  let now = 0;
  const table = createTable({
    label: `Replicas of ${name}`,
    key: (replica) => replica.id,
    empty: "No replica.",
    columns: [
      { title: "Replica", make: makeName, show: showName },
      {
        title: "Phase",
        wide: true,
        make: makePhase,
        show: (replica, cell) => showPhaseOf(replica, cell, { now, said: group().reason }),
      },
      { title: "Slots", number: true, show: describeSlots },
      { title: "Tokens/s", number: true, show: (replica) => rate(replica.tokens_per_second) },
      { title: "KV cache", make: makeKv, show: showKv },
      { title: "Memory", number: true, show: (replica) => bytes(replica.pss_bytes) },
      { title: "Health", wide: true, make: makeHealth, show: (replica, cell) => showHealth(replica, cell, now) },
      { title: "", make: (cell, current) => makeButtons(cell, current, group), show: showButtons },
    ],
  });
  return {
    root: table.root,
    update(latest, at) {
      now = at;
      table.update(latest.replicas);
    },
  };
}

function describeSlots(replica) {
  const queue = replica.waiting ? `, ${count(replica.waiting)} waiting` : "";
  return `${count(replica.running)} of ${count(replica.slots)}${queue}`;
}

function makeName(cell) {
  cell.id_ = h("span", { class: "mono" });
  cell.place = h("span", { class: "muted small-text" });
  cell.append(h("div", { class: "two-lines" }, cell.id_, cell.place));
}

function showName(replica, cell) {
  setText(cell.id_, replica.id);
  setText(cell.place, `${replica.node} · pid ${replica.pid}`);
}

function makePhase(cell) {
  cell.badge = createBadge();
  cell.timeline = createTimeline();
  cell.reason = h("span", { class: "small-text" });
  cell.append(h("div", { class: "phase-cell" }, cell.badge.root, cell.timeline.root, cell.reason));
}

function showPhaseOf(replica, cell, { now, said }) {
  showPhase(cell.badge, replica.phase);
  cell.timeline.update(replica.timeline, now);
  setText(cell.reason, replica.reason ?? "");
  show(cell.reason, Boolean(replica.reason) && !said?.includes(replica.reason)); // the group says it already
}

function makeKv(cell) {
  cell.meter = createMeter("KV cache");
  cell.append(cell.meter.root);
}

function showKv(replica, cell) {
  const known = replica.kv_total_tokens !== null;
  cell.meter.set(known ? replica.kv_usage : null, known ? percent(replica.kv_usage) : "–");
  write(
    cell.meter.root,
    "title",
    known
      ? `${count(replica.kv_used_tokens)} of ${count(replica.kv_total_tokens)} tokens, ${bytes(replica.kv_bytes)}`
      : "no figure",
  );
}

function makeHealth(cell) {
  cell.breaker = createBadge();
  cell.fine = h("span", { class: "muted" }, "no fault");
  cell.error = h("span", { class: "small-text" });
  cell.append(h("div", { class: "health-cell" }, cell.fine, cell.breaker.root, cell.error));
}

function showHealth(replica, cell, now) {
  const error = replica.last_error?.message === replica.reason ? null : replica.last_error;
  showBreaker(cell.breaker, replica.breaker);
  show(cell.breaker.root, replica.breaker !== "closed");
  show(cell.fine, replica.phase !== "failed" && replica.breaker === "closed" && !error);
  show(cell.error, Boolean(error));
  setText(cell.error, error ? `${age(now - error.at)} ago: ${error.message}` : "");
}

function makeButtons(cell, current, group) {
  cell.drain = h("button", { type: "button", class: "small quiet", onclick: () => actions.drain(group(), current()) }, "Drain");
  cell.resume = h("button", { type: "button", class: "small quiet", onclick: () => actions.resume(group(), current()) }, "Resume");
  cell.append(h("div", { class: "row end" }, cell.drain, cell.resume));
}

function showButtons(replica, cell) {
  write(cell.drain, "aria-label", `Drain replica ${replica.id}`);
  write(cell.resume, "aria-label", `Resume replica ${replica.id}`);
  show(cell.drain, !["draining", "failed"].includes(replica.phase));
  show(cell.resume, replica.phase === "draining");
}
