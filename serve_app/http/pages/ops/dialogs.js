/** Asks before something is changed, shows what came of it, and shows details in a drawer. Knows no endpoint. */

import { announce, byId, field, h, newId, replace } from "/pages/shared/dom.js";

const TOAST_S = 8;

/**
 * Ask in a dialog, then act. `effect` says what will happen. `fields` are [{name, label, hint, value, min, required}] of whole
 * numbers; `act(values)` does it and returns what to say about it. Errors are shown in the dialog, which stays open.
 */
export function confirm({ title, effect, action, danger = false, fields = [], act }) {
  const id = newId("dialog");
  const inputs = fields.map((each) => [
    each.name,
    h("input", {
      type: "number",
      inputmode: "numeric",
      step: "1",
      min: each.min ?? 0,
      value: each.value ?? "",
      required: each.required,
      name: each.name,
    }),
  ]);
  const fault = h("p", { class: "fault", role: "alert" });
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const form = h(
    "form",
    {},
    h("h2", { id: `${id}-title` }, title),
    h("p", { id: `${id}-effect`, class: "effect" }, effect),
    inputs.length > 0 &&
      h(
        "div",
        { class: "numbers" },
        fields.map((each, at) => field(each.label, inputs[at][1], each.hint)),
      ),
    fault,
    h("div", { class: "row end" }, cancel, go),
  );
  const dialog = h("dialog", { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-effect` }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(inputs.map(([name, input]) => [name, input.value === "" ? undefined : Number(input.value)]));
    fault.textContent = "";
    go.disabled = true;
    go.textContent = "Working…";
    try {
      const said = await act(values);
      dialog.close();
      toast(said);
    } catch (error) {
      fault.textContent = error.message;
    } finally {
      go.disabled = false;
      go.textContent = action;
    }
  });
  open(dialog);
  (inputs[0]?.[1] ?? cancel).focus();
}

/** Show a sentence for some seconds, and let screen readers say it. */
export function toast(text, kind = "good") {
  const note = h("p", { class: `toast notice ${kind}` }, text);
  byId("toasts").append(note);
  announce(text);
  setTimeout(() => note.remove(), TOAST_S * 1000);
}

/** Open a drawer at the side; returns its body, to be filled, and `close`. `closed` is called when it is gone. */
export function openDrawer(title, closed = () => {}) {
  document.querySelector("dialog.drawer")?.close();
  const id = newId("drawer");
  const body = h("div", { class: "stack" });
  const dialog = h(
    "dialog",
    { class: "drawer", "aria-labelledby": id },
    h(
      "div",
      { class: "row spread drawer-head" },
      h("h2", { id }, title),
      h("button", { type: "button", onclick: () => dialog.close() }, "Close"),
    ),
    body,
  );
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  open(dialog, closed);
  return { body, close: () => dialog.close(), fill: (...children) => replace(body, ...children) };
}

function open(dialog, closed = () => {}) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus({ preventScroll: true });
    closed();
  });
  document.body.append(dialog);
  dialog.showModal();
}
