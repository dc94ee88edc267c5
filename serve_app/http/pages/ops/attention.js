/** The panel above all: one sentence on how it stands, and what needs attention, worst first. */

import { h } from "/pages/shared/dom.js";
import { keep, setText, show, write } from "./elements.js";
import { plural } from "./format.js";
import { createBadge } from "./phases.js";
import { listProblems } from "./problems.js";

const WORDS = { bad: "act", warn: "watch", info: "wait" };

export function createAttention() {
  const verdict = h("p", { class: "verdict" });
  const list = h("ul", { class: "problems" });
  const root = h(
    "section",
    { class: "panel attention", "aria-labelledby": "attention-title" },
    h("h2", { id: "attention-title", class: "visually-hidden" }, "Needs attention"),
    verdict,
    list,
  );
  return {
    root,
    update(state) {
      const problems = listProblems(state);
      setText(verdict, describe(state, problems));
      write(root, "data-kind", problems[0]?.kind ?? "good");
      show(list, problems.length > 0);
      keep(list, problems, { key: (each) => each.key, create: createProblem, update: showProblem });
    },
  };
}

function describe(state, problems) {
  const awake = state.groups.filter((group) => group.phase !== "asleep");
  const ready = awake.filter((group) => group.phase === "ready").length;
  const asleep = state.groups.length - awake.length;
  const parts = [`${ready} of ${plural(awake.length, "group")} ${ready === 1 ? "is" : "are"} ready`, asleep && `${asleep} asleep`];
  const grave = problems.filter((each) => each.kind === "bad").length;
  const calm = problems.length ? "Nothing to act on at once." : "Nothing needs attention.";
  return `${parts.filter(Boolean).join(", ")}. ${grave ? `${plural(grave, "thing")} to act on.` : calm}`;
}

function createProblem() {
  const badge = createBadge();
  const link = h("a", { href: "#overview" });
  const fix = h("span", { class: "muted" });
  const node = h("li", {}, badge.root, h("span", {}, link, " ", fix));
  Object.assign(node, { badge, link, fix });
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const target = document.getElementById(`group-${node.group}`);
    target?.scrollIntoView({ block: "center" });
    target?.focus({ preventScroll: true });
  });
  return node;
}

function showProblem(node, problem) {
  node.group = problem.group;
  node.badge.set(problem.kind, WORDS[problem.kind]);
  setText(node.link, problem.text);
  setText(node.fix, problem.fix ? `What to do: ${problem.fix}` : "");
}
