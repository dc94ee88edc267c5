/** The charts of the last fifteen minutes, and the four figures above the overview. */

import { h, svg } from "/pages/shared/dom.js";
import { createChart } from "./chart.js";
import { setText, write } from "./elements.js";
import { count, duration, percent, rate } from "./format.js";
import { createFlow } from "./flow.js";
import { drawPath } from "./scale.js";
import { createUse } from "./use.js";

const halves = (field) => (points) => [
  { name: "p50: half are faster", short: "p50", look: "series-1", values: points.map((each) => each[field].p50) },
  { name: "p95: 19 of 20 are faster", short: "p95", look: "series-2", values: points.map((each) => each[field].p95) },
];
const plain = (fields) => (points) =>
  fields.map(([field, name, look]) => ({ name, look, values: points.map((each) => each[field]) }));

function listReplicas(points) {
  const names = [...new Set(points.flatMap((each) => Object.keys(each.replicas)))].sort();
  return names.map((name, at) => ({
    name,
    look: `series-${(at % 6) + 1}${at >= 6 ? " again" : ""}`,
    values: points.map((each) => each.replicas[name] ?? 0),
  }));
}

const CHARTS = [
  { title: "Time to the first token", read: halves("first_token_s"), format: duration },
  { title: "Time between tokens", read: halves("inter_token_s"), format: duration },
  {
    title: "Requests in 10 s",
    form: "bars",
    whole: true,
    read: plain([
      ["ok", "ok", "look-good"],
      ["cancelled", "cancelled", "look-muted"],
      ["errors", "errors", "look-bad"],
    ]),
    format: count,
  },
  {
    title: "Queue",
    form: "step",
    whole: true,
    read: plain([
      ["running", "running", "series-1"],
      ["waiting", "waiting", "series-2"],
    ]),
    format: count,
  },
  { title: "Replicas", form: "bars", solid: true, whole: true, read: listReplicas, format: count },
  { title: "Tokens per second", read: plain([["tokens_per_second", "tokens/s", "series-1"]]), format: rate, tick: count },
];

/** `open(filter)` shows the requests of a task and a group. */
export function createTraffic(store, open) {
  const charts = CHARTS.map(createChart);
  const flow = createFlow(open);
  const use = createUse();
  const root = h(
    "div",
    { class: "stack" },
    h(
      "section",
      { class: "panel", "aria-labelledby": "charts-title" },
      h("h2", { id: "charts-title" }, "The last 15 minutes"),
      h(
        "div",
        { class: "charts" },
        charts.map((each) => each.root),
      ),
    ),
    flow.root,
    use.root,
  );
  return {
    root,
    update(changed) {
      if (changed.has("points")) {
        for (const each of charts) each.update(store.points);
        flow.update(store.points, store.state);
      }
      if (changed.has("finished")) use.update(store.finished);
    },
  };
}

const TILES = [
  {
    title: "Tokens/s",
    values: (points) => points.map((each) => each.tokens_per_second),
    words: (points) => rate(points.at(-1)?.tokens_per_second),
  },
  {
    title: "First token, p95",
    values: (points) => points.map((each) => each.first_token_s.p95),
    words: (points) => duration(points.at(-1)?.first_token_s.p95),
  },
  { title: "Waiting", values: (points) => points.map((each) => each.waiting), words: (points) => count(points.at(-1)?.waiting) },
  { title: "Errors, 15 min", values: (points) => points.map((each) => each.errors), words: describeErrors, look: "look-bad" },
];

function describeErrors(points) {
  const errors = points.reduce((sum, each) => sum + each.errors, 0);
  const all = points.reduce((sum, each) => sum + each.errors + each.ok, 0);
  return errors ? `${count(errors)} (${errors / all < 0.01 ? "< 1 %" : percent(errors / all)})` : "0";
}

/** Four figures with their course; each leads to the charts. */
export function createTiles() {
  const tiles = TILES.map((tile) => {
    const value = h("span", { class: "tile-value number" });
    const path = svg("path", { class: `mark line ${tile.look ?? "series-1"}`, "vector-effect": "non-scaling-stroke" });
    const spark = svg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, path);
    return {
      ...tile,
      value,
      path,
      root: h("a", { class: "tile", href: "#traffic" }, h("span", { class: "tile-title" }, tile.title), value, spark),
    };
  });
  return {
    root: h(
      "div",
      { class: "tiles" },
      tiles.map((each) => each.root),
    ),
    update(points) {
      for (const { value, path, values, words } of tiles) {
        const course = values(points);
        const top = Math.max(0, ...course.map((each) => each ?? 0)) || 1;
        const places = course.map((each, at) =>
          each === null ? null : [100 - ((course.length - 1 - at) * 100) / 89, 22 - (each / top) * 20],
        );
        setText(value, words(points));
        write(path, "d", drawPath(places));
      }
    },
  };
}
