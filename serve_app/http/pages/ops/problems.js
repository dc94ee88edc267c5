/** Lists what an operator should know first, worst first, each with what to do about it. Pure: a state goes in, sentences come out. */

import { age, duration, plural } from "./format.js";

const RECENT_S = 600;

/** Return [{key, kind, text, fix, group}] of a state. */
export function listProblems(state) {
  const found = state.groups.flatMap((group) => [
    ...listOfGroup(group),
    ...group.replicas.flatMap((each) => listOfReplica(group, each, state.now)),
  ]);
  if (state.ingresses.length === 0) found.unshift({ key: "ingress", kind: "bad", text: "No ingress reports." });
  const rank = { bad: 0, warn: 1, info: 2 };
  return found.sort((a, b) => rank[a.kind] - rank[b.kind]);
}

function listOfGroup(group) {
  const about = { group: group.name };
  const found = [];
  if (group.phase === "failed") {
    found.push({
      ...about,
      key: `${group.name} failed`,
      kind: "bad",
      text: `${group.name} failed: ${group.reason ?? "no reason given"}`,
    });
  } else if (["starting", "loading", "warming"].includes(group.phase)) {
    found.push({
      ...about,
      key: `${group.name} starts`,
      kind: "info",
      text: `${group.name} is ${group.phase}${group.reason ? `: ${group.reason}` : ""}`,
    });
  } else if (group.phase === "draining") {
    found.push({
      ...about,
      key: `${group.name} drains`,
      kind: "warn",
      text: `${group.name} is drained: it gets nothing new, ${plural(group.running, "request")} under way`,
      fix: "resume it when you are done",
    });
  }
  if (group.breaker === "open") {
    found.push({
      ...about,
      key: `${group.name} breaker`,
      kind: "bad",
      text: `The breaker of ${group.name} is open: it failed too often lately and gets nothing`,
    });
  } else if (group.breaker === "half-open") {
    found.push({
      ...about,
      key: `${group.name} breaker`,
      kind: "warn",
      text: `The breaker of ${group.name} is half-open: one request at a time tries whether it works again`,
    });
  }
  for (const id of group.silent) {
    found.push({
      ...about,
      key: `${group.name} ${id} silent`,
      kind: "warn",
      text: `Replica ${id} of ${group.name} stopped reporting: it is gone or hangs, and gets nothing`,
    });
  }
  if (group.phase === "ready" && group.waiting > 0) {
    const wait = group.estimated_wait_s ? `; a new one waits about ${duration(group.estimated_wait_s)}` : "";
    found.push({
      ...about,
      key: `${group.name} queue`,
      kind: "warn",
      text: `${plural(group.waiting, "request")} ${group.waiting === 1 ? "waits" : "wait"} in ${group.name}${wait}`,
      fix: group.bounds ? "raise the maximum of its replicas if this lasts" : null,
    });
  }
  return found;
}

function listOfReplica(group, replica, now) {
  const about = { group: group.name };
  const name = `${group.name} ${replica.id}`;
  const found = [];
  if (replica.phase === "failed" && group.phase !== "failed") {
    found.push({
      ...about,
      key: `${name} failed`,
      kind: "warn",
      text: `Replica ${replica.id} of ${group.name} failed: ${replica.reason ?? "no reason given"}`,
    });
  }
  const error = replica.last_error;
  if (error && replica.phase === "ready" && now - error.at < RECENT_S) {
    found.push({
      ...about,
      key: `${name} error`,
      kind: "warn",
      text: `Replica ${replica.id} of ${group.name}, ${age(now - error.at)} ago: ${error.message}`,
    });
  }
  return found;
}
