/** How phases, outcomes, breakers and the whole status are shown: a colour never stands without a word. */

import { h } from "/pages/shared/dom.js";
import { age, clock, duration } from "./format.js";
import { keep, setStyle, setText, show, write } from "./elements.js";

const PHASE_KINDS = {
  ready: "good",
  starting: "info",
  loading: "info",
  warming: "info",
  failed: "bad",
  draining: "warn",
  asleep: "",
};
const PHASE_SIGNS = { ready: "●", starting: "◔", loading: "◑", warming: "◕", failed: "✕", draining: "◒", asleep: "☾" };
const BREAKER_KINDS = { closed: "", open: "bad", "half-open": "warn" };
const STATUS = {
  healthy: ["good", "Healthy"],
  degraded: ["warn", "Degraded"],
  not_ready: ["bad", "Not ready"],
  failed: ["bad", "Failed"],
};

/** Return a badge and a function that sets it. */
export function createBadge() {
  const sign = h("span", { "aria-hidden": "true" });
  const word = h("span");
  const root = h("span", { class: "badge" }, sign, word);
  const set = (kind, text, mark = "") => {
    write(root, "class", `badge ${kind}`.trim());
    setText(sign, mark);
    show(sign, mark !== "");
    setText(word, text);
  };
  return { root, set };
}

/** Show a phase in a badge of `createBadge`. */
export const showPhase = (badge, phase) => badge.set(PHASE_KINDS[phase] ?? "", phase, PHASE_SIGNS[phase] ?? "");

/** Show a breaker in a badge; a closed one is no news. */
export function showBreaker(badge, breaker) {
  badge.set(BREAKER_KINDS[breaker] ?? "warn", `breaker ${breaker}`, breaker === "closed" ? "" : "⚡");
}

/** Return [kind, words] of the whole status. */
export const describeStatus = (status) => STATUS[status] ?? ["", status];

/** Return the kind (good, warn, bad) of a request's outcome. */
export const kindOfOutcome = (outcome) =>
  outcome === "ok" ? "good" : outcome === "cancelled" || outcome === "running" ? "" : "bad";

/** A bar of the phases that a replica went through, each as wide as the root of its time, and their durations in words. */
export function createTimeline() {
  const bar = h("span", { class: "timeline", "aria-hidden": "true" });
  const words = h("span", { class: "small-text muted timeline-words" });
  const root = h("div", {}, bar, words);
  const update = (timeline, now) => {
    const parts = timeline.map((each, at) => ({ ...each, at_: at, lasts: Math.max(0, (timeline[at + 1]?.at ?? now) - each.at) }));
    keep(bar, parts, {
      key: (part) => `${part.at_} ${part.phase}`,
      create: () => h("span"),
      update: (node, part) => {
        write(node, "class", `segment ${part.phase}`);
        write(
          node,
          "title",
          `${part.phase} since ${clock(part.at)}, ${duration(part.lasts)}${part.reason ? `: ${part.reason}` : ""}`,
        );
        setStyle(node, "flex-grow", Math.max(0.5, Math.sqrt(Math.min(part.lasts, 300))).toFixed(1));
      },
    });
    const last = parts.at(-1);
    const past = parts.slice(0, -1).map((part) => `${part.phase} ${duration(part.lasts)}`);
    setText(words, last ? [...past, `${last.phase} for ${age(last.lasts)}`].join(" → ") : "");
  };
  return { root, update };
}

/** A meter for a part of a whole, with words beside it. */
export function createMeter(label) {
  const fill = h("span", { class: "meter-fill" });
  const words = h("span", { class: "number" });
  const bar = h("span", { class: "meter", "aria-hidden": "true" }, fill);
  const root = h("span", { class: "meter-line" }, bar, words);
  const set = (part, text) => {
    show(bar, part !== null);
    setStyle(fill, "inline-size", `${Math.round(Math.min(1, Math.max(0, part ?? 0)) * 100)}%`);
    write(fill, "class", `meter-fill${part > 0.9 ? " bad" : part > 0.7 ? " warn" : ""}`);
    setText(words, text);
    write(root, "title", `${label}: ${text}`);
  };
  return { root, set };
}
