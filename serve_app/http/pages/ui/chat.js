// The chat: a conversation that is streamed, stopped, repeated, edited and continued from any turn.

import { withKey } from "/pages/shared/frame.js";
import { announce, h, replace } from "/pages/shared/dom.js";
import { AnswerView } from "/pages/ui/answer.js";
import { RoutePreview } from "/pages/ui/route.js";
import { onSend } from "/pages/ui/send.js";
import { Answer, fetchAnswer } from "/pages/ui/stream.js";

const EXAMPLES = ["What is 15% of 240?", "Write a Python function that reverses a string.", "If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?"];

/** The panel. Turns are `{role, text}` of a user, or `{role, answer, sent}`. */
export class ChatPanel {
  #settings;
  #store;
  #turns = [];
  #id = crypto.randomUUID?.() ?? String(Date.now());
  #running = null;
  #log = h("div", { class: "log", role: "log", "aria-label": "Conversation", "aria-live": "off" });
  #prompt = h("textarea", { id: "prompt", rows: 2, placeholder: "Ask something", "aria-label": "Prompt", "aria-describedby": "prompt-keys" });
  #send = h("button", { type: "submit", class: "primary" }, "Send");
  #stop = h("button", { type: "button", class: "danger", hidden: true, onclick: () => this.stop() }, "Stop");
  #route;

  constructor(settings, store) {
    this.#settings = settings;
    this.#store = store;
    this.#route = new RoutePreview(settings, () => this.#messages(this.#turns));
    const form = h("form", { class: "composer" }, this.#route.node, h("div", { class: "composer-box" }, this.#prompt, h("div", { class: "composer-buttons" },
      h("span", { class: "hint", id: "prompt-keys" }, "Enter sends, Shift+Enter starts a line"), h("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "New"), this.#stop, this.#send)));
    onSend(form, settings, () => this.#submit(), this.#prompt);
    this.#prompt.addEventListener("input", () => {
      fit(this.#prompt);
      this.#route.update(this.#prompt.value);
    });
    this.node = h("div", { class: "chat" }, this.#log, form);
    this.#draw();
  }

  focus() {
    this.#prompt.focus();
  }

  /** The messages so far, for other panels; with `draft` the prompt that is being typed. */
  messages() {
    const draft = this.#prompt.value.trim();
    return [...this.#messages(this.#turns), ...(draft ? [{ role: "user", content: draft }] : [])];
  }

  /** Stop the answer that is being streamed. */
  stop() {
    this.#running?.abort();
  }

  /** Begin a new conversation. */
  clear() {
    this.stop();
    this.#turns = [];
    this.#id = crypto.randomUUID?.() ?? String(Date.now());
    this.#draw();
    this.focus();
  }

  /** Show a kept conversation. */
  open(id) {
    const kept = this.#store.list().find((each) => each.id === id);
    if (!kept) return;
    this.stop();
    this.#id = id;
    this.#turns = kept.turns.map(({ role, text }) => (role === "user" ? { role, text: String(text) } : { role, answer: Answer.fromText(String(text)), sent: null }));
    this.#draw();
  }

  #save() {
    const turns = this.#turns.map((turn) => ({ role: turn.role, text: turn.role === "user" ? turn.text : turn.answer.text }));
    this.#store.save({ id: this.#id, title: (this.#turns.find((turn) => turn.role === "user")?.text ?? "").slice(0, 60), at: Date.now(), turns });
  }

  #messages(turns) {
    return turns.filter((turn) => turn.role === "user" || turn.answer.text).map((turn) => (turn.role === "user" ? { role: "user", content: turn.text } : turn.answer.toMessage()));
  }

  #submit() {
    const text = this.#prompt.value.trim();
    if (!text || this.#running || !this.#settings.model) return;
    this.#prompt.value = "";
    fit(this.#prompt);
    this.#route.update("");
    this.#turns.push({ role: "user", text });
    this.#answer();
  }

  /** Let the model answer the turns so far; with `begun` it continues that text. */
  async #answer(begun = "") {
    const answer = new Answer();
    const messages = this.#messages(this.#turns);
    const body = this.#settings.body(begun ? [...messages, { role: "assistant", content: begun }] : messages);
    if (begun) Object.assign(body, { add_generation_prompt: false, continue_final_message: true });
    const headers = this.#settings.headers();
    const turn = { role: "assistant", answer, sent: { body, headers } };
    this.#turns.push(turn);
    const running = (this.#running = new AbortController());
    this.#draw();
    announce("Waiting for the answer");
    answer.text = begun;
    const sticks = nearEnd();
    if (sticks) toEnd();
    const onChange = () => {
      const follows = nearEnd();
      turn.view.update();
      if (follows) toEnd();
    };
    await fetchAnswer(answer, body, { headers, signal: running.signal, onChange });
    if (answer.error?.status === 401 && (await askAgain(answer.error))) {
      this.#turns = this.#turns.filter((each) => each !== turn);
      this.#running = null;
      return this.#answer(begun);
    }
    if (this.#running === running) this.#running = null;
    if (answer.state === "stopped") announce("Stopped");
    this.#showButtons();
    this.#save();
  }

  #draw() {
    this.#showButtons();
    replace(this.#log, this.#turns.length ? this.#turns.map((turn, index) => this.#buildTurn(turn, index)) : this.#buildStart());
  }

  #showButtons() {
    this.#stop.hidden = !this.#running;
    this.#send.hidden = Boolean(this.#running);
  }

  #buildStart() {
    const buttons = EXAMPLES.map((text) => h("button", { type: "button", onclick: () => this.#useExample(text) }, text));
    return h("div", { class: "start" }, h("h1", {}, "Playground"), h("p", { class: "muted" }, "What is typed here goes to this server only. Nothing is kept unless you ask for it."), h("div", { class: "examples" }, buttons));
  }

  #useExample(text) {
    this.#prompt.value = text;
    this.#prompt.dispatchEvent(new Event("input"));
    this.focus();
  }

  #buildTurn(turn, index) {
    if (turn.role === "user") {
      const edit = h("button", { type: "button", class: "small quiet", "aria-label": "Edit this prompt", onclick: () => this.#edit(turn, index, node) }, "Edit");
      const node = h("article", { class: "turn user", "aria-label": "Prompt" }, h("div", { class: "bubble" }, turn.text), h("div", { class: "row actions" }, edit));
      return node;
    }
    const actions = [
      h("button", { type: "button", class: "small quiet", "aria-label": "Retry this answer", onclick: () => this.#retry(index) }, "Retry"),
      h("button", { type: "button", class: "small quiet", "aria-label": "Edit this answer", onclick: () => this.#edit(turn, index, turn.view.node) }, "Edit"),
    ];
    turn.view = new AnswerView(turn.answer, { actions, sent: turn.sent, probabilities: this.#settings.wantsLogprobs, speak: turn.answer.busy });
    return turn.view.node;
  }

  #retry(index) {
    this.stop();
    this.#turns = this.#turns.slice(0, index);
    this.#answer();
  }

  /** Edit a turn in place; what comes after it is dropped when the edit is used. */
  #edit(turn, index, node) {
    const byUser = turn.role === "user";
    const input = h("textarea", { class: "grow", "aria-label": byUser ? "Edit the prompt" : "Edit the answer" });
    input.value = byUser ? turn.text : turn.answer.text;
    const use = () => {
      this.stop();
      this.#turns = this.#turns.slice(0, index);
      if (byUser) {
        this.#turns.push({ role: "user", text: input.value });
        this.#answer();
      } else if (input.value.trim()) {
        this.#answer(input.value);
      }
    };
    const keep = () => {
      this.stop();
      this.#turns = [...this.#turns.slice(0, index), { role: "assistant", answer: Answer.fromText(input.value), sent: null }];
      this.#draw();
      this.#save();
      this.focus();
    };
    const buttons = h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", onclick: () => this.#draw() }, "Cancel"),
      !byUser && h("button", { type: "button", onclick: keep }, "Keep as it is"), h("button", { type: "button", class: "primary", onclick: use }, byUser ? "Send again" : "Continue from here"));
    const editor = h("div", { class: "turn editor stack tight" }, input, buttons);
    editor.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.#draw();
      }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) use();
    });
    node.replaceWith(editor);
    fit(input);
    input.focus();
  }
}

/** Ask for a key after a refusal; resolves to whether there is one now. */
async function askAgain(error) {
  let asked = false;
  try {
    await withKey(async () => {
      if (asked) return;
      asked = true;
      throw error;
    });
    return true;
  } catch {
    return false;
  }
}

/** Make a text area as high as its text. */
export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight / 2)}px`;
}

function nearEnd() {
  return window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 120;
}

function toEnd() {
  window.scrollTo(0, document.documentElement.scrollHeight);
}
