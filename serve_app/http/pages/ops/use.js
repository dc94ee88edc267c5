/** Who uses the server: the finished requests that this page knows, added up by key. */

import { h } from "/pages/shared/dom.js";
import { setText } from "./elements.js";
import { clock, count, percent } from "./format.js";
import { createTable } from "./table.js";

/** Return [{key, requests, failed, prompt, cached, made, seconds}], the most tokens first. */
export function addByKey(requests) {
  const rows = new Map();
  for (const each of requests) {
    const row = rows.get(each.key) ?? { key: each.key, requests: 0, failed: 0, prompt: 0, cached: 0, made: 0 };
    row.requests += 1;
    row.failed += each.outcome === "ok" || each.outcome === "cancelled" ? 0 : 1;
    row.prompt += each.prompt_tokens;
    row.cached += each.cached_tokens;
    row.made += each.completion_tokens;
    rows.set(each.key, row);
  }
  return [...rows.values()].sort((a, b) => b.prompt + b.made - a.prompt - a.made);
}

export function createUse() {
  const since = h("p", { class: "muted small-text" });
  const table = createTable({
    label: "Use by key",
    scrolls: true,
    key: (row) => row.key,
    empty: "No request has finished yet.",
    columns: [
      { title: "Key", show: (row) => row.key },
      { title: "Requests", number: true, show: (row) => count(row.requests) },
      { title: "Failed", number: true, show: (row) => `${count(row.failed)} (${percent(row.failed / row.requests)})` },
      { title: "Prompt tokens", number: true, show: (row) => count(row.prompt) },
      { title: "of them cached", number: true, show: (row) => count(row.cached) },
      { title: "Tokens made", number: true, show: (row) => count(row.made) },
    ],
  });
  return {
    root: h(
      "section",
      { class: "panel", "aria-labelledby": "use-title" },
      h("h2", { id: "use-title" }, "Who uses it"),
      since,
      table.root,
    ),
    update(requests) {
      const oldest = requests.at(-1);
      setText(
        since,
        oldest
          ? `The ${count(requests.length)} requests that this page knows, since ${clock(oldest.at)}. Days and models: phi-serve usage.`
          : "",
      );
      table.update(addByKey(requests));
    },
  };
}
