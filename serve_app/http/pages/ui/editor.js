// A text area for JSON that says where it is wrong.

import { field, h } from "/pages/shared/dom.js";

/** A JSON editor; `value` is the parsed JSON, or undefined while the text is none. */
export class JsonEditor {
  #input;
  #fault = h("p", { class: "fault small-text", "aria-live": "polite" });

  /** `check(value)` returns what is wrong with the JSON, or an empty text. */
  constructor(label, value, { rows = 12, hint = "", check = () => "" } = {}) {
    this.#input = h("textarea", { class: "code", rows, spellcheck: "false", autocapitalize: "off" });
    this.#input.value = typeof value === "string" ? value : JSON.stringify(value, null, 2);
    this.check = check;
    this.node = h("div", { class: "stack tight" }, field(label, this.#input, hint), this.#fault);
    this.#input.addEventListener("input", () => this.#show());
    this.#input.addEventListener("change", () => {
      if (this.value !== undefined && this.#input.value.trim()) this.#input.value = JSON.stringify(this.value, null, 2);
    });
    this.#show();
  }

  get value() {
    try {
      const value = JSON.parse(this.#input.value);
      return this.check(value) ? undefined : value;
    } catch {
      return undefined;
    }
  }

  set text(text) {
    this.#input.value = text;
    this.#show();
  }

  focus() {
    this.#input.focus();
  }

  #show() {
    this.#fault.textContent = this.#find();
    this.#input.setAttribute("aria-invalid", String(Boolean(this.#fault.textContent)));
  }

  #find() {
    try {
      return this.check(JSON.parse(this.#input.value));
    } catch (error) {
      const at = /position (\d+)/.exec(error.message);
      const line = at ? this.#input.value.slice(0, Number(at[1])).split("\n").length : null;
      return `No JSON${line ? `, line ${line}` : ""}: ${error.message.replace(/ in JSON at position.*$/, "")}`;
    }
  }
}
