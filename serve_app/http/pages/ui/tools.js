// The tool bench: tools are offered, the calls of the model are shown and checked, results are typed in and sent back.

import { field, h, replace } from "/pages/shared/dom.js";
import { withKey } from "/pages/shared/frame.js";
import { AnswerView } from "/pages/ui/answer.js";
import { JsonEditor } from "/pages/ui/editor.js";
import { onSend } from "/pages/ui/send.js";
import { fillSelect } from "/pages/ui/settings.js";
import { Answer, fetchAnswer } from "/pages/ui/stream.js";

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Return the weather of a city.",
      parameters: {
        type: "object",
        properties: { city: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];
const CHOICES = [["auto", "auto: the model decides"], ["required", "required: some call"], ["none", "none: no call"]];

/** The panel. */
export class ToolsPanel {
  #settings;
  #editor = new JsonEditor("Tools", EXAMPLE, { rows: 14, check: checkTools });
  #choice = h("select");
  #prompt = h("textarea", { rows: 2 });
  #send = h("button", { type: "submit", class: "primary" }, "Send");
  #stop = h("button", { type: "button", class: "danger", hidden: true, onclick: () => this.stop() }, "Stop");
  #log = h("div", { class: "log", role: "log", "aria-label": "Calls and answers", "aria-live": "off" });
  #messages = [];
  #running = null;

  constructor(settings) {
    this.#settings = settings;
    this.#prompt.value = "What is the weather in Paris?";
    const form = h("form", { class: "card stack" }, this.#editor.node, field("Tool choice", this.#choice), field("Prompt", this.#prompt),
      h("div", { class: "row end" }, this.#stop, this.#send));
    onSend(form, settings, () => this.#begin(), this.#prompt);
    form.addEventListener("input", () => this.#showChoices());
    this.node = h("div", { class: "halves" }, h("h1", { class: "visually-hidden" }, "Tool bench"), form, h("section", { class: "stack", "aria-label": "Conversation with tools" }, this.#log));
    this.#showChoices();
    this.#showStart();
  }

  focus() {
    this.#prompt.focus();
  }

  /** Stop the answer. */
  stop() {
    this.#running?.abort();
  }

  #showStart() {
    replace(this.#log, h("p", { class: "muted" }, "Calls appear here. Type a result for each, and send the results back."));
  }

  #showChoices() {
    const names = (this.#editor.value ?? []).map((tool) => tool.function.name);
    fillSelect(this.#choice, [...CHOICES, ...names.map((name) => [`=${name}`, `call ${name}`])]);
  }

  #begin() {
    const text = this.#prompt.value.trim();
    if (!text || this.#running) return;
    if (!this.#editor.value) {
      this.#editor.focus();
      return;
    }
    this.#messages = [{ role: "user", content: text }];
    replace(this.#log, h("article", { class: "turn user", "aria-label": "Prompt" }, h("div", { class: "bubble" }, text)));
    this.#answer();
  }

  #body() {
    const choice = this.#choice.value;
    const after = this.#messages.at(-1).role === "tool";
    const forced = choice.startsWith("=") ? { type: "function", function: { name: choice.slice(1) } } : choice;
    // After a result a forced call would be forced again, and the model could never answer.
    return { ...this.#settings.body(this.#messages), tools: this.#editor.value, tool_choice: after && choice !== "none" ? "auto" : forced };
  }

  async #answer() {
    const running = (this.#running = new AbortController());
    this.#showButtons();
    const headers = this.#settings.headers();
    const body = this.#body();
    let answer;
    try {
      await withKey(async () => {
        answer = new Answer();
        const view = new AnswerView(answer, { sent: { body, headers } });
        this.#log.append(view.node);
        await fetchAnswer(answer, body, { headers, signal: running.signal, onChange: () => view.update() });
        if (answer.error?.status !== 401) return;
        view.node.remove();
        throw answer.error;
      });
    } catch {
      // Refused, and no key was given.
    }
    this.#running = null;
    this.#showButtons();
    if (!answer || answer.state !== "done") return;
    this.#messages.push(answer.toMessage());
    if (answer.calls.length) this.#askForResults(answer);
  }

  #showButtons() {
    this.#stop.hidden = !this.#running;
    this.#send.disabled = Boolean(this.#running);
  }

  #askForResults(answer) {
    const inputs = answer.calls.map((call, index) => {
      const input = h("textarea", { class: "code", rows: 2, placeholder: '{"temperature": 21}' });
      return { call, input, node: field(`Result of ${call.name}${answer.calls.length > 1 ? ` (call ${index + 1})` : ""}`, input) };
    });
    const form = h("form", { class: "turn results card stack tight" }, inputs.map(({ node }) => node), h("div", { class: "row end" }, h("button", { type: "submit", class: "primary" }, "Send results")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      for (const { call, input } of inputs) this.#messages.push({ role: "tool", tool_call_id: call.id, content: input.value || "{}" });
      form.replaceWith(...inputs.map(({ call, input }) => h("article", { class: "turn result", "aria-label": `Result of ${call.name}` }, h("span", { class: "badge" }, `result of ${call.name}`), h("pre", {}, input.value || "{}"))));
      this.#answer();
    });
    this.#log.append(form);
    inputs[0].input.focus();
  }
}

/** Return what is wrong with a list of tools, or an empty text. */
export function checkTools(tools) {
  if (!Array.isArray(tools)) return "The tools must be a list.";
  const at = tools.findIndex((tool) => tool?.type !== "function" || typeof tool.function?.name !== "string" || !tool.function.name);
  return at < 0 ? "" : `Tool ${at + 1} must be {"type": "function", "function": {"name": …, "parameters": …}}.`;
}
