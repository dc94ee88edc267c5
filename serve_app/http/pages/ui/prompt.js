// The prompt as the model gets it: the rendered text, and its tokens with their ids.

import { postJson } from "/pages/shared/api.js";
import { copyButton, field, h, replace } from "/pages/shared/dom.js";
import { withKey } from "/pages/shared/frame.js";
import { buildError } from "/pages/ui/answer.js";
import { onSend } from "/pages/ui/send.js";
import { showToken } from "/pages/ui/tokens.js";

const MOST_TOKENS = 2000;
const AT_ONCE = 6;

/** The panel; `messages()` returns those of the chat. */
export class PromptPanel {
  #settings;
  #messages;
  #source = h("select", {}, h("option", { value: "chat" }, "The chat, with what is typed there"), h("option", { value: "text" }, "A chat with the text below"), h("option", { value: "raw" }, "The text below as it is"));
  #text = h("textarea", { rows: 3 });
  #result = h("section", { class: "card stack", "aria-label": "Rendered prompt", hidden: true });
  #known = new Map();
  #run = 0;

  constructor(settings, messages) {
    this.#settings = settings;
    this.#messages = messages;
    this.#text.value = "What is 15% of 240?";
    const form = h("form", { class: "card stack" }, field("What to render", this.#source), field("Text", this.#text), h("div", { class: "row end" }, h("button", { type: "submit", class: "primary" }, "Render")));
    onSend(form, settings, () => this.#render());
    this.node = h("div", { class: "stack" }, h("h1", { class: "visually-hidden" }, "The rendered prompt"), form, this.#result);
  }

  focus() {
    this.#source.focus();
  }

  stop() {
    this.#run += 1;
  }

  async #render() {
    const run = (this.#run += 1);
    this.#result.hidden = false;
    try {
      const { prompt, ids } = await withKey(() => this.#ask());
      if (run !== this.#run) return;
      const chips = ids.slice(0, MOST_TOKENS).map((id) => h("li", {}, h("span", { class: "token-text" }, "…"), h("span", { class: "token-id" }, id)));
      replace(this.#result, h("div", { class: "row spread" }, h("h2", {}, `${ids.length} tokens`), h("div", { class: "row" }, copyButton(() => prompt, "Copy text"), copyButton(() => JSON.stringify(ids), "Copy ids"))),
        h("pre", { class: "rendered", tabindex: "0" }, prompt), h("ol", { class: "token-list", "aria-label": "Tokens and their ids" }, chips), ids.length > MOST_TOKENS && h("p", { class: "hint" }, `The first ${MOST_TOKENS} are shown.`));
      await this.#nameTokens(ids.slice(0, MOST_TOKENS), chips, run);
    } catch (error) {
      replace(this.#result, buildError(error));
    }
  }

  async #ask() {
    const text = this.#text.value;
    const model = this.#settings.model;
    if (this.#source.value === "raw") {
      const { tokens } = await postJson("/tokenize", { model, prompt: text });
      return { prompt: text, ids: tokens };
    }
    const chat = this.#source.value === "chat" ? this.#messages() : [];
    const messages = this.#settings.withSystem(chat.length ? chat : [{ role: "user", content: text }]);
    const rendered = await postJson("/v1/chat/completions/render", { model, messages });
    return { prompt: rendered.prompt, ids: rendered.prompt_token_ids };
  }

  /** Ask for the text of each id once, some at a time, and write it into the list. */
  async #nameTokens(ids, chips, run) {
    const model = this.#settings.model;
    const missing = [...new Set(ids)].filter((id) => !this.#known.has(`${model} ${id}`));
    const show = () => ids.forEach((id, index) => {
      const text = this.#known.get(`${model} ${id}`);
      if (text !== undefined) chips[index].firstChild.textContent = showToken(text);
    });
    show();
    const work = async () => {
      while (missing.length && run === this.#run) {
        const id = missing.pop();
        this.#known.set(`${model} ${id}`, (await postJson("/detokenize", { model, tokens: [id] })).prompt);
        if (run === this.#run && missing.length % 16 === 0) show();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (run === this.#run) show();
  }
}
