// Answers in a JSON schema: the schema is edited, the answer shown, and whether it fits.

import { copyButton, field, h, replace } from "/pages/shared/dom.js";
import { withKey } from "/pages/shared/frame.js";
import { buildError, buildFacts, pretty } from "/pages/ui/answer.js";
import { JsonEditor } from "/pages/ui/editor.js";
import { onSend } from "/pages/ui/send.js";
import { check } from "/pages/ui/settings.js";
import { Answer, fetchAnswer } from "/pages/ui/stream.js";

const EXAMPLE = {
  type: "object",
  properties: { name: { type: "string" }, population: { type: "integer" }, capital: { type: "boolean" } },
  required: ["name", "population", "capital"],
  additionalProperties: false,
};

/** The panel. */
export class SchemaPanel {
  #settings;
  #editor = new JsonEditor("JSON schema of the answer", EXAMPLE, { rows: 14, check: (value) => (value && typeof value === "object" && !Array.isArray(value) ? "" : "A schema is an object.") });
  #strict = h("input", { type: "checkbox" });
  #prompt = h("textarea", { rows: 2 });
  #send = h("button", { type: "submit", class: "primary" }, "Send");
  #stop = h("button", { type: "button", class: "danger", hidden: true, onclick: () => this.stop() }, "Stop");
  #validity = h("span", { role: "status" });
  #text = h("code", {});
  #rest = h("div", {});
  #result = h("section", { class: "card stack tight", "aria-label": "Answer", hidden: true });
  #running = null;

  constructor(settings) {
    this.#settings = settings;
    this.#prompt.value = "Describe Paris.";
    const form = h("form", { class: "card stack" }, this.#editor.node, check("Strict: refuse a schema that cannot be enforced as a whole", this.#strict), field("Prompt", this.#prompt),
      h("div", { class: "row end" }, this.#stop, this.#send));
    onSend(form, settings, () => this.#ask(), this.#prompt);
    this.#result.append(h("div", { class: "row spread" }, h("h2", {}, "Answer"), this.#validity), h("pre", { class: "json", tabindex: "0" }, this.#text), this.#rest,
      h("div", { class: "row actions" }, copyButton(() => this.#text.textContent, "Copy", { "aria-label": "Copy the JSON" })));
    this.node = h("div", { class: "halves" }, h("h1", { class: "visually-hidden" }, "Answers in a JSON schema"), form, this.#result);
  }

  focus() {
    this.#prompt.focus();
  }

  /** Stop the answer. */
  stop() {
    this.#running?.abort();
  }

  async #ask() {
    const text = this.#prompt.value.trim();
    if (!text || this.#running) return;
    if (!this.#editor.value) {
      this.#editor.focus();
      return;
    }
    const running = (this.#running = new AbortController());
    this.#stop.hidden = false;
    this.#send.disabled = true;
    this.#result.hidden = false;
    const body = { ...this.#settings.body([{ role: "user", content: text }]), response_format: { type: "json_schema", json_schema: { name: "answer", schema: this.#editor.value, strict: this.#strict.checked } } };
    let answer;
    try {
      await withKey(async () => {
        answer = new Answer();
        await fetchAnswer(answer, body, { headers: this.#settings.headers(), signal: running.signal, onChange: () => this.#draw(answer) });
        if (answer.error?.status === 401) throw answer.error;
      });
    } catch {
      // The answer shows its error.
    }
    this.#running = null;
    this.#stop.hidden = true;
    this.#send.disabled = false;
  }

  #draw(answer) {
    const [shown, parsed] = pretty(answer.text);
    this.#text.textContent = answer.busy ? answer.text : shown;
    replace(this.#rest, answer.error && buildError(answer.error), !answer.busy && h("div", { class: "facts" }, buildFacts(answer)));
    const [tone, text] = judge(answer, parsed);
    if (this.#validity.textContent !== text) replace(this.#validity, text && h("span", { class: `badge ${tone}` }, text));
  }
}

/** Return tone and words about whether an answer fits its schema: the server checks each answer that ended by itself. */
function judge(answer, parsed) {
  if (answer.busy) return ["", "writing"];
  if (answer.state === "failed") return ["bad", "failed"];
  if (answer.state === "stopped") return ["warn", "stopped"];
  if (answer.finish === "length") return ["warn", "cut short at its token limit"];
  if (!parsed) return ["bad", "no JSON"];
  return answer.invalidAnswer ? ["bad", "does not fit the schema"] : ["good", "fits the schema"];
}
