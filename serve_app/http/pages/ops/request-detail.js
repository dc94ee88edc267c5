/** One request's story in a drawer: what it cost, which groups were considered and why, and its attempts on a line of time. */

import { copyButton, h } from "/pages/shared/dom.js";
import { openDrawer } from "./dialogs.js";
import { setStyle } from "./elements.js";
import { clock, count, duration, plural, rate } from "./format.js";
import { describeReason } from "./live.js";
import { createBadge, kindOfOutcome } from "./phases.js";
import { read } from "./session.js";
import { createTable } from "./table.js";

/** What the reasons and obstacles of routing mean; docs/routing-policy.md explains each. */
const MEANINGS = {
  requested: "the client asked for this group (x-engine)",
  preferred: "first choice for the task",
  "shorter-wait": "another group would have answered much later",
  restricted: "the key or the model may not use it",
  "too-long": "the prompt does not fit its context",
  incapable: "it cannot do what the request needs",
  "not-ready": "it was not ready",
  "breaker-open": "it failed too often lately",
  failover: "an earlier group failed",
  "auto-fallback": "another model than the task's",
  asleep: "it was asleep",
};

/** Open the drawer of a request; what is known of it is shown at once, the rest is fetched. */
export async function openRequest(id, known = null) {
  const drawer = openDrawer(`Request ${id}`);
  const waiting = h("p", { class: "muted", role: "status" }, "Fetching its story…");
  drawer.fill(known && listFacts(known), waiting);
  try {
    const found = await read(`/requests/${encodeURIComponent(id)}`);
    drawer.fill(listFacts(found), drawAttempts(found), listCandidates(found));
  } catch (error) {
    const why = error.status === 404 ? "No ingress remembers this request: each keeps its last 1,000." : error.message;
    drawer.fill(known && listFacts(known), h("p", { class: "notice warn", role: "alert" }, why));
  }
}

function listFacts(request) {
  const badge = createBadge();
  badge.set(kindOfOutcome(request.outcome), request.outcome);
  const meaning = MEANINGS[request.reason];
  const rows = [
    ["Outcome", badge.root],
    ["Ended", `${clock(request.at)}, after ${duration(request.seconds)}`],
    ["Group", `${request.group ?? "none"}: ${describeReason(request)}${meaning ? ` (${meaning})` : ""}`],
    ["Task", request.task ?? "–"],
    ["Model", request.model],
    ["Key", request.key],
    ["Ingress", request.ingress],
    ["Prompt", `${plural(request.prompt_tokens, "token")}, ${count(request.cached_tokens)} from the cache`],
    ["Answer", `${plural(request.completion_tokens, "token")}, ${rate(request.tokens_per_second)} per second`],
    ["First token", duration(request.first_token_s)],
  ];
  return h(
    "div",
    {},
    h(
      "div",
      { class: "row end" },
      copyButton(() => request.id, "Copy the id"),
    ),
    h(
      "dl",
      { class: "facts" },
      rows.map(([title, value]) => [h("dt", {}, title), h("dd", {}, value)]),
    ),
  );
}

function drawAttempts(request) {
  const ends = request.timeline.map((each) => each.at_s + each.seconds);
  const whole = Math.max(request.seconds, ...ends, 0.001);
  const items = request.timeline.map((each, at) => {
    const bar = h("span", { class: `attempt-bar ${kindOfOutcome(each.outcome)}` });
    setStyle(bar, "margin-inline-start", `${((100 * each.at_s) / whole).toFixed(2)}%`);
    setStyle(bar, "inline-size", `${Math.max(0.8, (100 * (ends[at] - each.at_s)) / whole).toFixed(2)}%`);
    const where = `${each.group}${each.replica ? ` ${each.replica}` : ""}`;
    return h(
      "li",
      {},
      h(
        "div",
        { class: "row spread small-text" },
        h("strong", {}, where),
        h("span", {}, `${duration(each.at_s)} to ${duration(ends[at])}`),
      ),
      h("span", { class: "attempt-line", "aria-hidden": "true" }, bar),
      h("span", { class: "small-text muted" }, `${each.outcome}, ${plural(each.tokens, "token")}`),
    );
  });
  return h(
    "section",
    {},
    h("h3", {}, plural(request.timeline.length, "attempt")),
    request.timeline.length
      ? h("ol", { class: "attempts" }, items)
      : h("p", { class: "muted" }, "It was refused before it was sent anywhere."),
  );
}

function listCandidates(request) {
  const table = createTable({
    label: "Candidates",
    scrolls: true,
    key: (each) => each.group,
    empty: "No group was considered.",
    mark: (each) => (each.group === request.group ? "chosen" : ""),
    columns: [
      { title: "Group", show: (each) => (each.group === request.group ? `${each.group} (answered)` : each.group) },
      {
        title: "Obstacle",
        wide: true,
        show: (each) =>
          each.obstacle ? `${each.obstacle}${MEANINGS[each.obstacle] ? `: ${MEANINGS[each.obstacle]}` : ""}` : "none",
      },
      { title: "Ahead", number: true, show: (each) => count(each.ahead) },
      { title: "Wait", number: true, show: (each) => duration(each.wait_s) },
      { title: "Finish", number: true, show: (each) => duration(each.finish_s) },
    ],
  });
  table.update(request.candidates);
  return h("section", {}, h("h3", {}, "Groups considered, in order of preference"), table.root);
}
