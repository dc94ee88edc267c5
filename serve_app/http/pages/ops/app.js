/** Puts the operations page together: who may see it, the stream, the views, and what is drawn when. */

import { byId, h, replace } from "/pages/shared/dom.js";
import { buildHeader } from "/pages/shared/frame.js";
import { createBar } from "./bar.js";
import { createConfiguration } from "./configuration.js";
import { createGroups } from "./groups.js";
import { createLive } from "./live.js";
import { createLogs } from "./logs.js";
import { createAttention } from "./attention.js";
import { createRequests } from "./requests.js";
import { askWho, call, lookUp, signOut, takeTicket } from "./session.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";
import { createTiles, createTraffic } from "./traffic.js";

const VIEWS = [
  ["overview", "Overview"],
  ["requests", "Requests"],
  ["traffic", "Traffic"],
  ["configuration", "Configuration"],
  ["logs", "Logs"],
];
const HELD = 2000;
const EVERYTHING = ["state", "points", "finished"];

const store = new Store();
const stream = new Stream({
  open: (signal) => call("", { signal, headers: { accept: "text/event-stream" } }),
  take: (name, value) => {
    if (name === "hello") panels.requests.forget();
    if (!pausing.paused) store.take(name, value);
    else hold(name, value);
  },
  refused: (error) => ask(error.message),
});
const pausing = { paused: false, pausedAt: 0, held: [] };
const panels = {
  attention: createAttention(),
  tiles: createTiles(),
  groups: createGroups(),
  live: createLive(),
  requests: createRequests(store),
  traffic: createTraffic(store, (filter) => {
    location.hash = "requests";
    panels.requests.filter(filter);
  }),
  configuration: createConfiguration(),
  logs: createLogs(store),
};
const bar = createBar(byId("bar"), VIEWS, {
  retry: () => stream.retry(),
  pause: togglePause,
  signOut: () => {
    signOut();
    location.replace(location.pathname);
  },
});

let view = "overview";
let stale = new Set(EVERYTHING);
let planned = false;
let asking = false;

function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    draw();
  });
}

function draw() {
  bar.follow(stream, { ...pausing, everyS: store.everyS });
  if (!store.state) return;
  const changed = stale;
  stale = new Set();
  const { state, points } = store;
  if (changed.has("state")) bar.update(state);
  if (view === "overview") {
    if (changed.has("points")) panels.tiles.update(points);
    if (changed.has("state")) for (const each of [panels.attention, panels.groups, panels.live]) each.update(state);
  } else if (view === "requests") {
    if (changed.has("finished")) panels.requests.update();
  } else if (view === "traffic") {
    panels.traffic.update(changed);
  } else if (view === "logs") {
    panels.logs.update();
  }
}

/** Keep an event for the end of the pause: of states the last one, and of all no more than the page can show. */
function hold(name, value) {
  if (name === "state" || name === "hello") pausing.held = pausing.held.filter((each) => each.name !== name);
  pausing.held = [...pausing.held, { name, value }].slice(-HELD);
}

function togglePause() {
  pausing.paused = !pausing.paused;
  pausing.pausedAt = Date.now();
  if (!pausing.paused) for (const { name, value } of pausing.held.splice(0)) store.take(name, value);
  plan();
}

function openView() {
  const wanted = location.hash.slice(1);
  view = VIEWS.some(([name]) => name === wanted) ? wanted : "overview";
  for (const [name] of VIEWS) byId(`view-${name}`).hidden = name !== view;
  bar.choose(view);
  for (const each of EVERYTHING) stale.add(each);
  draw();
  if (view === "requests") panels.requests.load();
  if (view === "configuration") panels.configuration.open();
  if (view === "logs") panels.logs.open();
  else panels.logs.leave();
}

function begin() {
  byId("sign-in").hidden = true;
  byId("bar").hidden = false;
  openView();
  stream.start();
}

/** Ask who is there, once: several calls may be refused at the same time. */
async function ask(reason) {
  if (asking) return;
  asking = true;
  stream.stop();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  byId("bar").hidden = true;
  for (const [name] of VIEWS) byId(`view-${name}`).hidden = true;
  let needs = "key";
  try {
    ({ needs } = await lookUp());
  } catch {
    // The server does not answer now; the form says so when it is used.
  }
  askWho({ needs, reason }, () => {
    asking = false;
    begin();
  });
}

async function boot() {
  buildHeader("/ops");
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment names the view
    byId("main").focus();
  });
  replace(byId("view-overview"), panels.attention.root, panels.tiles.root, panels.groups.root, panels.live.root);
  for (const name of ["requests", "traffic", "configuration", "logs"]) replace(byId(`view-${name}`), panels[name].root);
  store.subscribe((what) => {
    stale.add(what);
    plan();
  });
  setInterval(plan, 1000);
  document.addEventListener("operator-refused", (event) => ask(event.detail));
  window.addEventListener("hashchange", () => byId("bar").hidden || openView());
  const fault = await takeTicket();
  try {
    const found = await lookUp();
    if (found.may_operate) begin();
    else ask(fault);
  } catch (error) {
    replace(
      byId("sign-in"),
      h(
        "div",
        { class: "card stack" },
        h("h2", { id: "sign-in-title" }, "The server does not answer"),
        h("p", { role: "alert" }, error.message),
        h("div", { class: "row" }, h("button", { type: "button", onclick: () => location.reload() }, "Try again")),
      ),
    );
    byId("sign-in").hidden = false;
  }
}

boot();
