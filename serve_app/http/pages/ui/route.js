// Shows, while a prompt is typed, what it would be classified as and which groups would answer.

import { postJson } from "/pages/shared/api.js";
import { h, replace } from "/pages/shared/dom.js";

const WAIT_MS = 300;

/** A strip with the probabilities of the tasks and the order of the candidates. */
export class RoutePreview {
  node = h("div", { class: "route", hidden: true, role: "group", "aria-label": "Route of this prompt" });
  #settings;
  #messages;
  #timer = 0;
  #running = null;
  #text = "";

  /** `messages()` returns the turns before the prompt. */
  constructor(settings, messages = () => []) {
    this.#settings = settings;
    this.#messages = messages;
    settings.addEventListener("change", () => this.update(this.#text));
  }

  /** Show the route of a prompt, soon. */
  update(text) {
    this.#text = text;
    clearTimeout(this.#timer);
    this.#running?.abort();
    if (!text.trim() || !this.#settings.model) {
      this.node.hidden = true;
      return;
    }
    this.#timer = setTimeout(() => this.#ask(text), WAIT_MS);
  }

  async #ask(text) {
    const asked = (this.#running = new AbortController());
    const messages = this.#settings.withSystem([...this.#messages(), { role: "user", content: text }]);
    const body = messages.length === 1 && this.#settings.model === this.#settings.models[0] ? { text } : { model: this.#settings.model, messages };
    try {
      const route = await postJson("/v1/route", body, { headers: this.#settings.headers(), signal: asked.signal });
      replace(this.node, buildBars(route), buildOrder(route));
    } catch (error) {
      if (error.name === "AbortError") return;
      replace(this.node, h("span", { class: "muted small-text" }, error.message));
    }
    this.node.hidden = false;
  }
}

function buildBars(route) {
  const entries = Object.entries(route.probabilities ?? {}).sort(([, a], [, b]) => b - a);
  if (!entries.length) return h("span", { class: "muted small-text" }, `Task ${route.task} (${route.task_reason})`);
  return h("ul", { class: "bars", "aria-label": "Probabilities of the tasks" }, entries.map(([task, chance]) =>
    h("li", { class: task === route.task ? "chosen" : "" }, h("span", { class: "bar-name" }, task),
      h("span", { class: "bar", "aria-hidden": "true" }, h("span", { style: { width: `${Math.max(1, chance * 100)}%` } })), h("span", { class: "number" }, `${Math.round(chance * 100)} %`))));
}

function buildOrder(route) {
  const names = route.candidates ?? [];
  const groups = names.length ? h("ol", { class: "order", "aria-label": "Groups in their order" }, names.map((name, index) => h("li", { class: index ? "badge" : "badge accent" }, name)))
    : h("span", { class: "badge bad" }, "no group can answer");
  const why = [route.abstained ? `too uncertain: counts as ${route.task}` : `${route.task} (${route.task_reason})`, route.reason].filter(Boolean).join(" · ");
  return h("div", { class: "order-line" }, groups, h("span", { class: "muted small-text" }, why));
}
