/** The view of the last log lines by group and replica, and the bundle of everything for a report. */

import { field, h, newId } from "/pages/shared/dom.js";
import { toast } from "./dialogs.js";
import { keep, setText, show, write } from "./elements.js";
import { clock } from "./format.js";
import { call, read } from "./session.js";

const FOLLOW_S = 3;

export function createLogs(store) {
  const group = h("select", {}, h("option", { value: "" }, "all"));
  const replica = h("select", {}, h("option", { value: "" }, "all"));
  const lines = h(
    "select",
    {},
    [100, 200, 500, 1000].map((number) => h("option", { value: number, selected: number === 200 }, number)),
  );
  const search = h("input", { type: "search", placeholder: "Text in the line" });
  const follow = h("input", { type: "checkbox", id: newId("follow") });
  const refresh = h("button", { type: "submit" }, "Refresh");
  const note = h("p", { class: "muted small-text" });
  const fault = h("p", { class: "fault", role: "alert" });
  const list = h("div", { class: "stack" });
  const nothing = h("p", { class: "muted" }, "No log for this choice.");
  const form = h(
    "form",
    { class: "filters", "aria-label": "Which logs" },
    field("Group", group),
    field("Replica", replica),
    field("Lines", lines),
    field("Filter", search),
    h("div", { class: "row" }, refresh, h("label", { class: "check", for: follow.id }, follow, "Follow")),
  );
  let sources = [];
  let timer = 0;
  let visible = false;
  let asking = false;
  const render = () => {
    const text = search.value.toLowerCase();
    show(nothing, sources.length === 0);
    write(list, "data-many", sources.length > 2 || null);
    keep(list, sources, {
      key: (each) => `${each.group} ${each.id}`,
      create: createSource,
      update: (node, each) => node.follow(each, text),
    });
  };
  async function load() {
    if (asking) return;
    asking = true;
    const wanted = new URLSearchParams({ lines: lines.value });
    if (group.value) wanted.set("group", group.value);
    if (replica.value) wanted.set("replica", replica.value);
    try {
      ({ sources } = await read(`/logs?${wanted}`));
      setText(fault, "");
      setText(note, `as of ${clock(store.now())}`);
      render();
    } catch (error) {
      setText(fault, `The logs could not be read: ${error.message}`);
    } finally {
      asking = false;
    }
  }
  const beat = () => {
    clearInterval(timer);
    if (visible && follow.checked) timer = setInterval(() => document.hidden || load(), FOLLOW_S * 1000);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  group.addEventListener("change", () => {
    replica.value = "";
    offer();
    load();
  });
  for (const each of [replica, lines]) each.addEventListener("change", load);
  search.addEventListener("input", render);
  follow.addEventListener("change", () => {
    beat();
    if (follow.checked) load();
  });
  function offer() {
    const groups = store.state?.groups ?? [];
    setOptions(group, [...groups.map((each) => each.name), "ingress"]);
    const own = groups.filter((each) => each.name === group.value).flatMap((each) => each.replicas);
    setOptions(
      replica,
      group.value === "ingress" ? (store.state?.ingresses ?? []).map((each) => each.id) : own.map((each) => each.id),
    );
  }
  const root = h(
    "section",
    { class: "panel", "aria-labelledby": "logs-title" },
    h(
      "div",
      { class: "row spread panel-head" },
      h("div", { class: "row" }, h("h2", { id: "logs-title" }, "Logs"), note),
      createBundle(),
    ),
    form,
    fault,
    list,
    nothing,
  );
  return {
    root,
    update: offer,
    open() {
      visible = true;
      offer();
      beat();
      if (!sources.length) load();
    },
    leave() {
      visible = false;
      beat();
    },
  };
}

function setOptions(select, values) {
  if (select.offered === values.join("\n")) return;
  select.offered = values.join("\n");
  const chosen = select.value;
  select.replaceChildren(h("option", { value: "" }, "all"), ...values.map((value) => h("option", { value }, value)));
  select.value = values.includes(chosen) ? chosen : "";
}

function createSource(first) {
  const text = h("pre", { class: "log", tabIndex: 0, role: "region", "aria-label": `Log of ${first.group} ${first.id}` });
  const root = h(
    "div",
    {},
    h(
      "h3",
      {},
      `${first.group} `,
      h("span", { class: "mono" }, first.id),
      h("span", { class: "muted small-text" }, ` on ${first.node}`),
    ),
    text,
  );
  root.follow = (source, wanted) => {
    const lines = wanted ? source.lines.filter((line) => line.toLowerCase().includes(wanted)) : source.lines;
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 24;
    setText(text, lines.join("\n") || (source.lines.length ? "No line holds this text." : "Nothing was logged."));
    if (atEnd) text.scrollTop = text.scrollHeight;
  };
  return root;
}

function createBundle() {
  const button = h(
    "button",
    { type: "button", title: "Configuration, state, health, metrics, requests without text, versions, log tails; no secrets" },
    "Download support bundle",
  );
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const blob = await (await call("/bundle")).blob();
      const address = URL.createObjectURL(blob);
      const link = document.createElement("a"); // not `h`, which lets no blob: through
      link.href = address;
      link.download = `phi-serve-bundle-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.zip`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
      toast("The bundle was downloaded. It holds no secrets and no texts of requests.");
    } catch (error) {
      toast(`The bundle could not be made: ${error.message}`, "bad");
    } finally {
      button.disabled = false;
    }
  });
  return button;
}
