/**
 * Who uses this page: an API key, or a session that a ticket of the terminal opened. Both live as long as the tab.
 * Shows the form where the server asks for one. Knows nothing of what is shown once the caller is let in.
 */

import { getJson, postJson, request, setKey } from "/pages/shared/api.js";
import { byId, field, h, replace } from "/pages/shared/dom.js";

const BASE = "/v1/operations";
const TOKEN = "phi-serve.operator-token";
let memory = "";

function getToken() {
  try {
    return sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    return memory;
  }
}

function setToken(token) {
  memory = token;
  try {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    // Storage is forbidden here: the session lives as long as the page.
  }
}

const withToken = (options) => ({ ...options, headers: { "x-operator-token": getToken(), ...options.headers } });

/** Let the page know that the server no longer knows this caller, and pass the error on. */
function noteRefusal(error) {
  if (error.status === 401) document.dispatchEvent(new CustomEvent("operator-refused", { detail: error.message }));
  throw error;
}

/** Send a request below /v1/operations and return the Response; raises ApiError. */
export const call = (path, options = {}) => request(BASE + path, withToken(options)).catch(noteRefusal);
/** Return the JSON that a path below /v1/operations answers. */
export const read = (path, options = {}) => getJson(BASE + path, withToken(options)).catch(noteRefusal);
/** Send JSON to a path below /v1/operations and return its answer. */
export const post = (path, body = {}) => postJson(BASE + path, body, withToken({})).catch(noteRefusal);

/** Forget key and session. */
export function signOut() {
  setKey("");
  setToken("");
}

/** Use the ticket in the address, if there is one, and take it out of the address and the history. Returns what went wrong. */
export async function takeTicket() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
  if (!ticket) return "";
  history.replaceState(null, "", location.pathname + location.search);
  try {
    await redeem(ticket);
    return "";
  } catch (error) {
    return error.message;
  }
}

async function redeem(ticket) {
  setToken((await postJson(`${BASE}/session`, { ticket })).token);
}

/** Return whether this tab may operate, and what the server wants to see: key, ticket or nothing. */
export const lookUp = () => read("/session");

/** Use what was typed: a ticket if the server knows it as one, else an API key. Raises ApiError where neither is accepted. */
async function enter(text) {
  try {
    await redeem(text);
    return;
  } catch (error) {
    if (![400, 401, 403, 404, 422].includes(error.status)) throw error;
  }
  setKey(text);
  const found = await lookUp();
  if (found.may_operate) return;
  setKey("");
  throw new Error(REFUSED[found.needs] ?? REFUSED.key);
}

const REFUSED = {
  key:
    "This is neither a key that may operate nor a ticket that is still valid. " +
    "A key needs the scope operate: phi-serve keys create NAME --scope operate.",
  ticket: "This ticket is unknown or was used before: each works once.",
};
const INTRODUCTION = {
  key: "This server asks for an API key with the scope operate.",
  ticket:
    "This server has no API keys. The terminal in which it was started prints an address of this page with a ticket, which works once.",
};

/** Show the form; calls `entered` once the caller is let in. `reason` says why the form is there. */
export function askWho({ needs, reason }, entered) {
  const section = byId("sign-in");
  const input = h("input", { type: "password", name: "secret", autocomplete: "off", spellcheck: "false", required: true });
  const fault = h("p", { class: "fault", role: "alert" }, reason);
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const form = h(
    "form",
    { class: "card stack" },
    h("h2", { id: "sign-in-title" }, "Sign in to operations"),
    h("p", { class: "muted" }, INTRODUCTION[needs] ?? INTRODUCTION.key),
    fault,
    field("API key, or ticket from the terminal", input, "Kept for this tab only."),
    h("div", { class: "row end" }, button),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await enter(input.value.trim());
      section.hidden = true;
      entered();
    } catch (error) {
      fault.textContent = error.message;
      input.select();
      input.focus();
    } finally {
      button.disabled = false;
    }
  });
  replace(section, form);
  section.hidden = false;
  input.focus();
}
