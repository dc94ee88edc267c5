// Shows one answer: text, thoughts, calls, where it was made and how fast, and what each candidate would have cost.

import { announce, copyButton, h, patch, replace } from "/pages/shared/dom.js";
import { formatNumber, formatSeconds } from "/pages/shared/format.js";
import { renderMarkdown } from "/pages/ui/markdown.js";
import { asCurl, asOllama, asPython } from "/pages/ui/snippets.js";
import { renderTokens } from "/pages/ui/tokens.js";

const REASONS = {
  preferred: "first in the order of its task",
  failover: "another group failed before or while it answered",
  load: "a shorter wait elsewhere",
};
const DRAW_EVERY_MS = 60;
const SPEAK_EVERY_MS = 2500;

/** The node of an answer; `update()` draws what has changed. */
export class AnswerView {
  #answer;
  #content = h("div", { class: "prose" });
  #thoughts = h("details", { class: "thoughts", hidden: true }, h("summary", {}, "Thoughts"), h("div", { class: "prose muted" }));
  #calls = h("div", { class: "calls" });
  #fault = h("div", {});
  #facts = h("div", { class: "facts" });
  #actions = h("div", { class: "row actions" });
  #drawn = 0;
  #timer = 0;
  #tellsAloud;
  #spokenAt = 0;
  #spokenChars = 0;
  #probabilities;

  /** `actions` are nodes below an answer that has ended; `sent` returns `{body, headers}` of its request; `speak` lets screen readers follow. */
  constructor(answer, { actions = [], sent = null, speak = true, probabilities = false, label = "Answer" } = {}) {
    this.#answer = answer;
    this.#tellsAloud = speak;
    this.#probabilities = probabilities;
    this.node = h("article", { class: "turn assistant", "aria-label": label }, this.#thoughts, this.#content, this.#calls, this.#fault, this.#facts, this.#actions);
    this.#actions.append(copyButton(() => this.#answer.text, "Copy", { "aria-label": "Copy the answer" }), ...actions);
    if (sent) this.#actions.append(buildSnippets(sent));
    this.#draw();
  }

  /** Draw soon; often enough to read along, and not for each token. */
  update() {
    if (!this.#answer.busy) {
      clearTimeout(this.#timer);
      this.#timer = 0;
      this.#draw();
      return;
    }
    const wait = Math.max(0, this.#drawn + DRAW_EVERY_MS - performance.now());
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.#draw();
    }, wait);
  }

  #draw() {
    const answer = this.#answer;
    const began = performance.now();
    this.node.setAttribute("aria-busy", String(answer.busy));
    this.node.classList.toggle("busy", answer.busy);
    if (this.#probabilities && answer.logprobs.length) {
      replace(this.#content, renderTokens(answer.logprobs, answer.moves.length ? answer : null));
    } else {
      patch(this.#content, renderMarkdown(answer.markedText, (number) => buildMove(answer.moves[number])));
    }
    if (answer.state === "waiting") replace(this.#content, h("p", { class: "muted waiting" }, "Waiting for the first token…"));
    this.#thoughts.hidden = !answer.thoughts;
    if (answer.thoughts) patch(this.#thoughts.lastChild, renderMarkdown(answer.thoughts));
    patch(this.#calls, answer.calls.filter(Boolean).map((call) => buildCall(call, answer)));
    replace(this.#fault, answer.error && buildError(answer.error), answer.state === "stopped" && h("p", { class: "muted small-text" }, "Stopped."));
    if (!answer.busy) replace(this.#facts, buildFacts(answer));
    this.#actions.hidden = answer.busy;
    this.#speak();
    this.#drawn = performance.now() + Math.min(400, 4 * (performance.now() - began)); // a long text is drawn less often
  }

  /** Hand whole sentences to screen readers, now and then, and the rest at the end. */
  #speak() {
    if (!this.#tellsAloud || this.#answer.state === "waiting") return;
    const { text, busy } = this.#answer;
    const end = busy ? Math.max(...[". ", "! ", "? ", "\n"].map((each) => text.lastIndexOf(each))) + 1 : text.length;
    if ((busy && performance.now() < this.#spokenAt + SPEAK_EVERY_MS) || end <= this.#spokenChars) return;
    announce(text.slice(this.#spokenChars, end).slice(-1000));
    this.#spokenChars = end;
    this.#spokenAt = performance.now();
    if (!busy) this.#tellsAloud = false;
  }
}

function buildMove(move) {
  return h("span", { class: "badge warn move", title: `attempt ${move.attempt}, ${move.reason}` }, `continued on ${move.group}`);
}

/** Return one tool call; arguments that are JSON are shown in lines. */
export function buildCall(call, answer) {
  const flagged = answer.invalidCalls.includes(call.name);
  const [text, parsed] = pretty(call.arguments);
  return h("div", { class: "call" },
    h("div", { class: "row" }, h("span", { class: "badge info" }, "calls"), h("code", { class: "name" }, call.name),
      flagged && h("span", { class: "badge bad" }, "Arguments do not fit the schema"), !parsed && !answer.busy && h("span", { class: "badge bad" }, "Arguments are no JSON")),
    h("pre", { tabindex: "0" }, h("code", {}, text)));
}

/** Return JSON in lines, and whether the text is JSON. */
export function pretty(text) {
  try {
    return [JSON.stringify(JSON.parse(text), null, 2), true];
  } catch {
    return [text, false];
  }
}

/** Return an error of the server for people. */
export function buildError(error) {
  const wait = error.retryAfter ? ` Try again in ${formatSeconds(error.retryAfter)}.` : "";
  return h("div", { class: "notice bad", role: "alert" }, h("p", {}, error.message + wait), error.requestId && h("p", { class: "small-text" }, "Request ", h("code", {}, error.requestId)));
}

/** Return the line of figures below an answer; the button shows the candidates. */
export function buildFacts(answer) {
  const { route, usage } = answer;
  if (!route.group && !usage) return null;
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const facts = [
    route.group && h("span", { class: "badge accent", title: "The group that answered" }, route.group),
    route.reason && fact("reason", route.reason, REASONS[route.reason]),
    route.task && fact("task", route.task),
    route.attempts > 0 && fact("attempts", route.attempts),
    answer.firstTokenS !== null && fact("first token", formatSeconds(answer.firstTokenS)),
    answer.tokensPerSecond !== null && fact("speed", `${formatNumber(answer.tokensPerSecond, answer.tokensPerSecond < 10 ? 1 : 0)} tok/s`),
    !answer.streamed && answer.seconds !== null && fact("time", formatSeconds(answer.seconds)),
    usage && fact("prompt", formatNumber(usage.prompt_tokens), "tokens"),
    usage && fact("completion", formatNumber(usage.completion_tokens), "tokens"),
    usage && fact("cached", formatNumber(cached), "tokens of the prompt that were known already"),
    answer.finish && answer.finish !== "stop" && fact("ended by", answer.finish),
    route.dropped > 0 && fact("dropped messages", route.dropped, "older turns that did not fit the context"),
  ];
  const table = route.candidates ? buildCandidates(route) : null;
  const button = table && h("button", { type: "button", class: "small quiet", "aria-expanded": "false" }, "Candidates");
  button?.addEventListener("click", () => {
    table.hidden = !table.hidden;
    button.setAttribute("aria-expanded", String(!table.hidden));
  });
  return [h("div", { class: "fact-row" }, facts, button), table];
}

function fact(name, value, title = "") {
  return h("span", { class: "fact", title }, h("span", { class: "fact-name" }, `${name} `), h("span", { class: "number" }, value));
}

function buildCandidates(route) {
  const rows = route.candidates.map((each) => h("tr", {},
    h("th", { scope: "row" }, each.group, each.group === route.group && " ✓"),
    h("td", { class: "number" }, each.ahead), h("td", { class: "number" }, formatSeconds(each.wait_s)), h("td", { class: "number" }, formatSeconds(each.finish_s)),
    h("td", {}, each.obstacle ?? (each.group === route.group ? "chosen" : "could have answered"))));
  return h("div", { class: "table-wrap candidates", hidden: true }, h("table", {}, h("caption", { class: "visually-hidden" }, "Cost of each candidate"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Group"), h("th", { scope: "col", class: "number" }, "Ahead"), h("th", { scope: "col", class: "number" }, "Wait"),
      h("th", { scope: "col", class: "number" }, "Done in"), h("th", { scope: "col" }, "Verdict"))),
    h("tbody", {}, rows)));
}

function buildSnippets(sent) {
  const forms = [["curl", asCurl], ["Python", asPython], ["Ollama", asOllama]];
  return h("span", { class: "row copy-as", role: "group", "aria-label": "Copy the request" }, h("span", { class: "muted small-text" }, "Copy as"),
    forms.map(([name, write]) => copyButton(() => write(sent.body, sent.headers), name, { "aria-label": `Copy as ${name}` })));
}
