/** The bar at the top: whole status, figures, the stream's state, pause, sign-out, and the links to the views. */

import { announce, h, replace } from "/pages/shared/dom.js";
import { setText, show, write } from "./elements.js";
import { age, count, rate } from "./format.js";
import { createBadge, describeStatus } from "./phases.js";

const STALE_PERIODS = 3;

/** `views` is [[name, title]]; `actions` has pause(), signOut(), retry(). */
export function createBar(root, views, actions) {
  const status = createBadge();
  status.root.id = "status";
  const figures = Object.fromEntries(
    ["Ingresses", "Active", "Waiting", "Tokens/s"].map((title) => [title, h("dd", { class: "number" })]),
  );
  const list = h(
    "dl",
    { class: "figures" },
    Object.entries(figures).map(([title, value]) => h("div", {}, h("dt", {}, title), value)),
  );
  const connection = createBadge();
  connection.root.id = "connection";
  const retry = h("button", { type: "button", class: "small", onclick: actions.retry }, "Try now");
  const pause = h(
    "button",
    { type: "button", class: "small", id: "pause", "aria-pressed": "false", onclick: actions.pause },
    "Pause",
  );
  const leave = h("button", { type: "button", class: "small quiet", onclick: actions.signOut }, "Sign out");
  const links = new Map(views.map(([name, title]) => [name, h("a", { href: `#${name}` }, title)]));
  replace(
    root,
    h("div", { class: "bar-line" }, status.root, list, h("div", { class: "row bar-tools" }, connection.root, retry, pause, leave)),
    h("nav", { "aria-label": "Views" }, [...links.values()]),
  );
  let said = "";
  return {
    /** Show which view is open. */
    choose(view) {
      for (const [name, link] of links) write(link, "aria-current", name === view ? "page" : null);
    },
    /** Show the figures of a state. */
    update(state) {
      const [kind, words] = describeStatus(state.status);
      status.set(kind, words, "●");
      document.title = `${words} – phi-serve operations`;
      const sum = (field) => state.groups.reduce((total, group) => total + group[field], 0);
      setText(figures.Ingresses, count(state.ingresses.length));
      setText(figures.Active, count(state.ingresses.reduce((total, each) => total + each.active, 0)));
      setText(figures.Waiting, count(sum("waiting")));
      setText(figures["Tokens/s"], rate(sum("tokens_per_second")));
      if (said && said !== words) announce(`Status: ${words}`);
      said = words;
    },
    /** Show how the stream is; called once a second and after each of its changes. */
    follow(stream, { paused, pausedAt, everyS }) {
      const silentS = stream.heardAt ? (Date.now() - stream.heardAt) / 1000 : null;
      const seen = silentS === null ? "" : `last seen ${age(silentS)} ago`;
      const [kind, words] = describeStream(stream, silentS, seen, everyS);
      connection.set(
        paused ? "warn" : kind,
        paused ? `paused ${age((Date.now() - pausedAt) / 1000)} ago` : words,
        kind === "good" && !paused ? "●" : "",
      );
      write(connection.root, "title", stream.fault || null);
      show(retry, stream.phase === "waiting");
      write(pause, "aria-pressed", String(paused));
      setText(pause, paused ? "Continue" : "Pause");
      write(root, "data-stale", kind !== "good" || null);
    },
  };
}

function describeStream(stream, silentS, seen, everyS) {
  const inS = Math.max(0, Math.ceil((stream.retryAt - Date.now()) / 1000));
  if (stream.phase === "open") return silentS > STALE_PERIODS * everyS ? ["warn", `stale, ${seen}`] : ["good", "live"];
  if (stream.phase === "waiting") return ["bad", [`reconnecting in ${inS} s`, seen].filter(Boolean).join(", ")];
  if (stream.phase === "hidden") return ["warn", "resting while out of sight"];
  return ["warn", ["connecting", seen].filter(Boolean).join(", ")];
}
