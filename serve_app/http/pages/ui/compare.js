// One prompt to every group side by side: how the answers differ, token by token, and how fast each came.

import { copyButton, field, h, replace } from "/pages/shared/dom.js";
import { withKey } from "/pages/shared/frame.js";
import { buildError, buildFacts } from "/pages/ui/answer.js";
import { fit } from "/pages/ui/chat.js";
import { onSend } from "/pages/ui/send.js";
import { check } from "/pages/ui/settings.js";
import { Answer, fetchAnswer } from "/pages/ui/stream.js";
import { renderDifference } from "/pages/ui/tokens.js";

/** The panel. */
export class ComparePanel {
  #settings;
  #prompt = h("textarea", { rows: 3, placeholder: "One prompt for all groups" });
  #greedy = h("input", { type: "checkbox", checked: true });
  #limit = h("input", { type: "number", min: 1, value: "128" });
  #choices = h("div", { class: "row", role: "group", "aria-label": "Groups to compare" });
  #chosen = new Map();
  #run = h("button", { type: "submit", class: "primary" }, "Compare");
  #stop = h("button", { type: "button", class: "danger", hidden: true, onclick: () => this.stop() }, "Stop");
  #verdict = h("p", { class: "verdict", role: "status" });
  #columns = h("div", { class: "columns" });
  #running = null;

  constructor(settings) {
    this.#settings = settings;
    const form = h("form", { class: "card stack" }, field("Prompt", this.#prompt), this.#choices,
      h("div", { class: "row spread" }, h("div", { class: "row" }, check("Most probable tokens only (temperature 0)", this.#greedy), h("label", { class: "check" }, "Max tokens", this.#limit)),
        h("div", { class: "row" }, this.#stop, this.#run)));
    onSend(form, settings, () => this.#compare(), this.#prompt);
    this.#prompt.addEventListener("input", () => fit(this.#prompt));
    settings.addEventListener("groups", () => this.#showChoices());
    this.node = h("div", { class: "stack" }, h("h1", { class: "visually-hidden" }, "Compare groups"), form, this.#verdict, this.#columns);
    this.#showChoices();
  }

  focus() {
    this.#prompt.focus();
  }

  /** Stop all answers. */
  stop() {
    this.#running?.abort();
  }

  #showChoices() {
    for (const { name } of this.#settings.groups) {
      if (!this.#chosen.has(name)) this.#chosen.set(name, h("input", { type: "checkbox", checked: true }));
    }
    replace(this.#choices, this.#settings.groups.map(({ name, phase }) => check(phase === "ready" ? name : `${name} (${phase})`, this.#chosen.get(name))));
  }

  async #compare() {
    const text = this.#prompt.value.trim();
    const names = this.#settings.groups.map(({ name }) => name).filter((name) => this.#chosen.get(name)?.checked);
    if (!text || this.#running || !names.length) return;
    const running = (this.#running = new AbortController());
    this.#stop.hidden = false;
    this.#run.disabled = true;
    this.#verdict.textContent = "";
    const columns = names.map((name) => new Column(name));
    replace(this.#columns, columns.map((column) => column.node));
    const draw = () => this.#draw(columns);
    try {
      await withKey(async () => {
        await Promise.all(columns.map((column) => column.ask(this.#body(text), this.#settings.headers(column.name), running.signal, draw)));
        const refused = columns.find((column) => column.answer.error?.status === 401);
        if (refused) throw refused.answer.error;
      });
    } catch {
      // Each column shows its own error.
    }
    this.#running = null;
    this.#stop.hidden = true;
    this.#run.disabled = false;
    this.#draw(columns, true);
  }

  #body(text) {
    const body = { ...this.#settings.body([{ role: "user", content: text }]), stream: true, logprobs: true, top_logprobs: 0 };
    if (this.#greedy.checked) body.temperature = 0;
    if (this.#limit.value) body.max_tokens = Number(this.#limit.value);
    return body;
  }

  #draw(columns, ended = false) {
    const reference = columns.find((column) => column.tokens.length);
    for (const column of columns) column.draw(reference && column !== reference ? reference.tokens : null, ended);
    if (!ended) return;
    const answered = columns.filter((column) => column.answer.state === "done");
    const differing = answered.filter((column) => column.first >= 0);
    const slowest = (column) => column.answer.tokensPerSecond ?? 0;
    const fastest = [...answered].sort((a, b) => slowest(b) - slowest(a))[0];
    const same = answered.length > 1 && !differing.length ? "All answers are the same, token by token." : "";
    const parted = differing.map((column) => `${column.name} parts from ${reference.name} at token ${column.first + 1}.`).join(" ");
    const speed = answered.length > 1 && slowest(fastest) ? ` Fastest: ${fastest.name}.` : "";
    this.#verdict.textContent = same + parted + speed;
  }
}

class Column {
  answer = new Answer();
  /** Position of the first token that differs from the first column's; -1: none. */
  first = -1;
  #text = h("div", { class: "compared", tabindex: "0" });
  #state = h("span", { class: "badge" }, "waiting");
  #facts = h("div", { class: "facts" });
  #timer = 0;

  constructor(name) {
    this.name = name;
    this.#text.setAttribute("role", "group");
    this.#text.setAttribute("aria-label", `Text of ${name}`);
    this.node = h("article", { class: "card column", "aria-label": `Answer of ${name}` }, h("div", { class: "row spread" }, h("h2", {}, name), this.#state), this.#text, this.#facts,
      h("div", { class: "row actions" }, copyButton(() => this.answer.text, "Copy", { "aria-label": `Copy the answer of ${name}` })));
  }

  get tokens() {
    return this.answer.logprobs.map((entry) => entry.token);
  }

  async ask(body, headers, signal, draw) {
    this.answer = new Answer();
    const later = () => {
      this.#timer ||= setTimeout(() => {
        this.#timer = 0;
        draw();
      }, 120);
    };
    await fetchAnswer(this.answer, body, { headers, signal, onChange: later });
    clearTimeout(this.#timer);
    draw();
  }

  draw(reference, ended) {
    const { answer, tokens } = this;
    // While both are written, a shorter answer is no difference yet.
    const against = reference && !ended && answer.busy ? reference.slice(0, Math.max(tokens.length, 0)) : reference;
    const shown = against && tokens.length ? renderDifference(tokens, against) : { nodes: [tokens.length ? tokens.join("") : answer.text], first: -1 };
    this.first = shown.first;
    replace(this.#text, shown.nodes, answer.error && buildError(answer.error));
    const speed = answer.tokensPerSecond;
    this.#state.textContent = answer.busy ? (answer.state === "waiting" ? "waiting" : "answering") : speed ? `${speed.toFixed(speed < 10 ? 1 : 0)} tok/s` : answer.state;
    this.#state.className = `badge ${answer.state === "failed" ? "bad" : answer.state === "done" ? "good" : ""}`;
    if (!answer.busy) replace(this.#facts, buildFacts(answer));
  }
}
