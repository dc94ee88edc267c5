/** Which tasks went to which groups in the last fifteen minutes, as a matrix. */

import { h } from "/pages/shared/dom.js";
import { setStyle, setText, write } from "./elements.js";
import { count, percent } from "./format.js";

/** Return the sums of some points' flows, and zeros for `groups`: {tasks, groups, cells: {task: {group: requests}}, total}. */
export function addFlows(points, groups = []) {
  const cells = {};
  const seen = new Set(groups);
  let total = 0;
  for (const point of points) {
    for (const [task, byGroup] of Object.entries(point.flow)) {
      cells[task] ??= {};
      for (const [group, number] of Object.entries(byGroup)) {
        cells[task][group] = (cells[task][group] ?? 0) + number;
        seen.add(group);
        total += number;
      }
    }
  }
  return { tasks: Object.keys(cells).sort(), groups: [...seen], cells, total };
}

/** `open({task, group})` shows the requests of a cell. */
export function createFlow(open) {
  const table = h("table", { class: "flow", "aria-label": "Requests by task and group" });
  const nothing = h("p", { class: "muted nothing" }, "No request was routed in the last 15 minutes.");
  const root = h(
    "section",
    { class: "panel", "aria-labelledby": "flow-title" },
    h("h2", { id: "flow-title" }, "Where tasks went"),
    h("p", { class: "muted small-text" }, "Requests of the last 15 minutes by task and group. A figure leads to its requests."),
    h("div", { class: "table-wrap" }, table),
    nothing,
  );
  let built = "";
  let cells = new Map();
  const build = ({ tasks, groups }) => {
    cells = new Map();
    const cell = (name, attributes = {}) => {
      const node = h("td", { class: "number", ...attributes });
      cells.set(name, node);
      return node;
    };
    const row = (task) => {
      const buttons = groups.map((group) => {
        const button = h("button", { type: "button", class: "link", onclick: () => open({ task, group }) });
        const node = cell(`${task}\n${group}`);
        node.append(button);
        node.button = button;
        return node;
      });
      return h("tr", {}, h("th", { scope: "row" }, task), buttons, cell(`${task}\n`, { class: "number sum" }));
    };
    table.replaceChildren(
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Task"),
          groups.map((group) => h("th", { scope: "col", class: "number" }, group)),
          h("th", { scope: "col", class: "number" }, "All"),
        ),
      ),
      h(
        "tbody",
        {},
        tasks.map(row),
        h(
          "tr",
          {},
          h("th", { scope: "row" }, "All"),
          groups.map((group) => cell(`\n${group}`, { class: "number sum" })),
          cell("\n", { class: "number sum" }),
        ),
      ),
    );
  };
  return {
    root,
    update(points, state) {
      const flow = addFlows(
        points,
        state?.groups.filter((group) => group.phase === "ready").map((group) => group.name),
      );
      const shape = JSON.stringify([flow.tasks, flow.groups]);
      if (shape !== built) build(flow);
      built = shape;
      nothing.hidden = flow.total > 0;
      table.hidden = flow.total === 0;
      fill(cells, flow);
    },
  };
}

function fill(cells, { tasks, groups, cells: numbers, total }) {
  const of = (task, group) => numbers[task]?.[group] ?? 0;
  const most = Math.max(1, ...tasks.flatMap((task) => groups.map((group) => of(task, group))));
  for (const task of tasks) {
    const all = groups.reduce((sum, group) => sum + of(task, group), 0);
    for (const group of groups) {
      const [number, node] = [of(task, group), cells.get(`${task}\n${group}`)];
      setText(node.button, number ? count(number) : "0");
      node.button.disabled = number === 0;
      write(
        node.button,
        "aria-label",
        `${count(number)} ${task} requests in ${group}, ${percent(all ? number / all : 0)} of the task`,
      );
      setStyle(node, "--heat", `${Math.round((100 * number) / most)}%`);
    }
    setText(cells.get(`${task}\n`), count(all));
  }
  for (const group of groups) setText(cells.get(`\n${group}`), count(tasks.reduce((sum, task) => sum + of(task, group), 0)));
  setText(cells.get("\n"), count(total));
}
