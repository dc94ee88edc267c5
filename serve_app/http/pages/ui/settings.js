// The settings that all panels share: model, group, task, system prompt, sampling; and the kept conversations.

import { getJson } from "/pages/shared/api.js";
import { append, field, h, replace } from "/pages/shared/dom.js";

const TASKS = ["math", "coding", "reasoning", "general", "tools"];
const ENCODER = "onnx_encoder";
const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1, placeholder: "default" }],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.05, placeholder: "default" }],
  ["max_tokens", "Max tokens", { min: 1, step: 1, placeholder: "no limit" }],
  ["seed", "Seed", { step: 1, placeholder: "random" }],
];

/** The shared settings as controls, and as the parts of a request. Sends the event `change` when one is changed. */
export class Settings extends EventTarget {
  /** Groups that generate: `{name, phase, model, engine}`. */
  groups = [];
  /** Names of models that generate. */
  models = [];
  #model = h("select");
  #group = h("select");
  #task = h("select", {}, h("option", { value: "" }, "Classify each prompt"), TASKS.map((task) => h("option", { value: task }, task)));
  #system = h("textarea", { rows: 3, placeholder: "None" });
  #stop = h("textarea", { rows: 2, placeholder: "None" });
  #numbers = NUMBERS.map(([name, label, bounds]) => ({ name, label, input: h("input", { type: "number", inputmode: "decimal", ...bounds }) }));
  #stream = h("input", { type: "checkbox", checked: true });
  #logprobs = h("input", { type: "checkbox" });
  #known = "";

  /** Build the controls into `parent`; `more` are further sections. */
  build(parent, ...more) {
    const fields = [
      field("Model", this.#model),
      field("Group", this.#group, "Sent as x-engine: only this group may answer."),
      field("Task", this.#task, "Sent as x-task: what the request counts as in routing."),
    ];
    replace(
      parent,
      section("Route", ...fields),
      section("System prompt", field("Instructions for every answer", this.#system)),
      section("Sampling", h("div", { class: "pairs" }, this.#numbers.map(({ label, input }) => field(label, input))), field("Stop strings", this.#stop, "One a line.")),
      section("Answers", check("Stream", this.#stream), check("Token probabilities", this.#logprobs)),
      ...more,
    );
    parent.addEventListener("input", () => this.dispatchEvent(new Event("change")));
  }

  /** Read models and groups from the server, and keep what is chosen. */
  async refresh() {
    const [list, health] = await Promise.all([getJson("/v1/models"), getJson("/health", { accept: [503] })]);
    const groups = Object.entries(health.groups ?? {}).map(([name, group]) => ({ name, ...group }));
    const encoding = new Set(groups.filter((group) => group.engine === ENCODER).map((group) => group.model));
    this.groups = groups.filter((group) => group.engine !== ENCODER);
    this.models = list.data.filter((model) => !encoding.has(model.root ?? model.id)).map((model) => model.id);
    const shown = JSON.stringify([this.models, this.groups.map(({ name, phase }) => [name, phase])]);
    if (shown === this.#known) return;
    this.#known = shown;
    fillSelect(this.#model, this.models.map((name) => [name, name]));
    fillSelect(this.#group, [["", "Any: the router chooses"], ...this.groups.map(({ name, phase }) => [name, phase === "ready" ? name : `${name} (${phase})`])]);
    this.dispatchEvent(new Event("groups"));
    this.dispatchEvent(new Event("change"));
  }

  /** Resolves when models and groups are known; asks the server where they are not yet. */
  async whenKnown() {
    if (!this.#known) await this.refresh();
  }

  get model() {
    return this.#model.value;
  }

  get group() {
    return this.#group.value;
  }

  get wantsLogprobs() {
    return this.#logprobs.checked;
  }

  /** The routing headers; `group` replaces the chosen one. */
  headers(group = this.#group.value) {
    return { "x-engine": group, "x-task": this.#task.value };
  }

  /** The messages with the system prompt before them. */
  withSystem(messages) {
    const system = this.#system.value.trim();
    return system ? [{ role: "system", content: system }, ...messages] : messages;
  }

  /** The body of a chat with these messages. */
  body(messages) {
    const body = { model: this.model, messages: this.withSystem(messages) };
    for (const { name, input } of this.#numbers) if (input.value !== "" && input.validity.valid) body[name] = Number(input.value);
    const stop = this.#stop.value.split("\n").filter((each) => each);
    if (stop.length) body.stop = stop;
    if (this.wantsLogprobs) Object.assign(body, { logprobs: true, top_logprobs: 5 });
    body.stream = this.#stream.checked;
    return body;
  }
}

function section(title, ...content) {
  return h("section", { class: "setting" }, h("h2", {}, title), content);
}

/** Return a checkbox with its label. */
export function check(label, input) {
  return h("label", { class: "check" }, input, label);
}

/** Replace a select's options, `[value, text]` each; the chosen value stays where it is still there. */
export function fillSelect(select, options) {
  const chosen = select.value;
  replace(select, options.map(([value, text]) => h("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** Return a section of settings about kept conversations. */
export function buildConversations(store, onOpen) {
  const list = h("ul", { class: "kept" });
  const keep = h("input", { type: "checkbox", checked: store.enabled });
  const show = () => {
    replace(list, store.list().map((each) => h("li", {},
      h("button", { type: "button", class: "quiet small open", onclick: () => onOpen(each.id) }, each.title || "Untitled"),
      h("button", { type: "button", class: "quiet small", "aria-label": `Delete ${each.title || "the conversation"}`, onclick: () => store.remove(each.id) }, "✕"))));
    keep.checked = store.enabled;
  };
  keep.addEventListener("change", () => {
    store.enabled = keep.checked;
  });
  store.addEventListener("change", show);
  const node = section("Conversations", check("Keep them in this browser", keep), h("p", { class: "hint" }, "Off: nothing is stored. Turning it off deletes them."), list);
  show();
  return append(node);
}
