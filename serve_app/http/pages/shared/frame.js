// The head of every page: name, links to the other pages, theme, key.

import { getKey, request, setKey } from "/pages/shared/api.js";
import { announce, field, h, replace } from "/pages/shared/dom.js";

const LINKS = [
  ["/", "Home"],
  ["/ui", "Playground"],
  ["/ops", "Operations"],
  ["/docs", "API"],
];
const THEMES = { "": "System theme", light: "Light theme", dark: "Dark theme" };
const THEME = "phi-serve.theme";

/** Fill the element `header` of the page; `current` is the path of this page. `showKey` adds a button for the API key. */
export function buildHeader(current, { showKey = false } = {}) {
  const links = LINKS.map(([path, name]) => h("a", { href: path, "aria-current": path === current ? "page" : null }, name));
  replace(
    document.querySelector("header.top"),
    h("a", { href: "/", class: "brand" }, "phi-serve"),
    h("nav", { "aria-label": "Pages" }, links),
    h("div", { class: "top-tools" }, showKey && buildKeyButton(), buildThemeButton()),
  );
}

function buildThemeButton() {
  const button = h("button", { type: "button", class: "icon quiet" });
  const show = () => {
    const theme = document.documentElement.dataset.theme ?? "";
    button.textContent = { "": "◐", light: "☀", dark: "☾" }[theme];
    button.setAttribute("aria-label", `${THEMES[theme]}; change`);
    button.title = THEMES[theme];
  };
  button.addEventListener("click", () => {
    const order = ["", "light", "dark"];
    const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % order.length];
    setTheme(next);
    show();
    announce(THEMES[next]);
  });
  show();
  return button;
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    if (theme) localStorage.setItem(THEME, theme);
    else localStorage.removeItem(THEME);
  } catch {
    // Storage is forbidden here: the theme lasts as long as the page.
  }
}

function buildKeyButton() {
  return h("button", { type: "button", class: "small quiet", "aria-label": "API key", title: "API key", onclick: () => askForKey("") }, "Key");
}

/**
 * Ask for the API key in a dialog, and keep it for this tab. Resolves to whether one was given.
 *
 * `check` names a path that a valid key may read; a wrong key is asked for again.
 */
export function askForKey(reason, { check = "/v1/models" } = {}) {
  const open = document.querySelector("dialog.key");
  if (open) return Promise.resolve(false);
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false" });
  input.value = getKey();
  const fault = h("p", { class: "fault", role: "alert" }, reason);
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "key-title" }, "API key"),
    fault,
    field("Key", input, "Sent with each request of this tab, and forgotten when the tab is closed."),
    h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", value: "cancel", onclick: () => dialog.close("cancel") }, "Cancel"),
      h("button", { type: "submit", class: "primary" }, "Use this key")),
  );
  const dialog = h("dialog", { class: "key", "aria-labelledby": "key-title" }, form);
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const before = getKey();
      setKey(input.value.trim());
      try {
        await request(check);
        dialog.close("given");
      } catch (error) {
        if (error.status === 401) {
          setKey(before);
          fault.textContent = error.message;
          input.select();
        } else {
          dialog.close("given");
        }
      }
    });
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "given";
      dialog.remove();
      if (given) document.dispatchEvent(new CustomEvent("key-changed"));
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}

/** Run `work`; where the server asks for a key, ask the user for it and run `work` once more. */
export async function withKey(work) {
  try {
    return await work();
  } catch (error) {
    if (error.status !== 401) throw error;
    if (!(await askForKey(error.message))) throw error;
    return work();
  }
}
