// The playground: its panels, their settings, and the keys that work everywhere.

import { byId, h, replace } from "/pages/shared/dom.js";
import { buildHeader, withKey } from "/pages/shared/frame.js";
import { ChatPanel } from "/pages/ui/chat.js";
import { ComparePanel } from "/pages/ui/compare.js";
import { PromptPanel } from "/pages/ui/prompt.js";
import { SchemaPanel } from "/pages/ui/schema.js";
import { buildConversations, Settings } from "/pages/ui/settings.js";
import { ConversationStore } from "/pages/ui/store.js";
import { ToolsPanel } from "/pages/ui/tools.js";

const REFRESH_MS = 10_000;

const settings = new Settings();
const store = new ConversationStore();
const chat = new ChatPanel(settings, store);
const panels = {
  chat: { name: "Chat", panel: chat },
  compare: { name: "Compare", panel: new ComparePanel(settings) },
  tools: { name: "Tools", panel: new ToolsPanel(settings) },
  json: { name: "JSON", panel: new SchemaPanel(settings) },
  prompt: { name: "Prompt", panel: new PromptPanel(settings, () => chat.messages()) },
};
const state = h("div", { class: "server-state", role: "alert" });
let current = "";

function build() {
  buildHeader("/ui", { showKey: true });
  const aside = byId("settings");
  settings.build(aside, buildConversations(store, (id) => {
    show("chat");
    chat.open(id);
  }));
  const tabs = h("div", { role: "tablist", "aria-label": "Panels" }, Object.entries(panels).map(([id, { name }]) =>
    h("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, onclick: () => show(id, true) }, name)));
  tabs.addEventListener("keydown", walkTabs);
  const toggle = h("button", { type: "button", class: "small settings-toggle", "aria-expanded": "false", "aria-controls": "settings" }, "Settings");
  toggle.addEventListener("click", () => {
    const open = document.body.classList.toggle("settings-open");
    toggle.setAttribute("aria-expanded", String(open));
    if (open) aside.querySelector("select").focus();
  });
  replace(byId("main"), h("div", { class: "tab-line" }, tabs, toggle), state,
    Object.entries(panels).map(([id, { panel }]) => h("section", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, hidden: true }, panel.node)));
  document.addEventListener("keydown", useKey);
  document.addEventListener("key-changed", refresh);
  addEventListener("hashchange", () => show(location.hash.slice(1)));
  show(location.hash.slice(1));
}

function show(id, byClick = false) {
  if (!(id in panels)) id = "chat";
  current = id;
  for (const each of Object.keys(panels)) {
    const chosen = each === id;
    byId(`panel-${each}`).hidden = !chosen;
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  if (byClick) history.replaceState(null, "", `#${id}`);
}

function walkTabs(event) {
  const ids = Object.keys(panels);
  const at = { ArrowRight: ids.indexOf(current) + 1, ArrowLeft: ids.indexOf(current) - 1, Home: 0, End: ids.length - 1 }[event.key];
  if (at === undefined) return;
  event.preventDefault();
  show(ids[(at + ids.length) % ids.length], true);
  byId(`tab-${current}`).focus();
}

function useKey(event) {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && !event.defaultPrevented) panels[current].panel.stop();
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    panels[current].panel.focus();
  }
}

let asked = false;

/** Read models and groups; ask for a key once, where one is needed. */
async function refresh() {
  try {
    if (asked) await settings.refresh();
    else await withKey(() => settings.refresh());
    const waiting = settings.groups.filter((group) => group.phase !== "ready");
    const none = settings.groups.length > 0 && waiting.length === settings.groups.length;
    say(none ? "No group is ready yet: the model is being loaded." : "");
  } catch (error) {
    say(error.status === 401 ? "This server asks for an API key." : error.message);
  }
  asked = true;
}

function say(text) {
  if (state.textContent === text) return;
  replace(state, text && h("p", { class: "notice warn" }, text));
}

build();
await refresh();
if (!document.activeElement || document.activeElement === document.body) panels[current].panel.focus();
setInterval(() => document.hidden || refresh(), REFRESH_MS);
