// Shows the tokens of an answer: their probabilities as colours, with the alternatives in a small table; and differences of two answers.

import { h, newId } from "/pages/shared/dom.js";

const LEVELS = [0.9, 0.6, 0.3, 0.1];
const MOST_CELLS = 1_000_000;

/** Return the tokens as buttons coloured by probability; one at a time shows its alternatives. */
export function renderTokens(logprobs, answer = null) {
  const table = h("div", { class: "alternatives", hidden: true, id: newId("alternatives") });
  const line = h("div", { class: "tokens" });
  const show = (token, node) => {
    table.replaceChildren(buildAlternatives(token));
    table.hidden = false;
    const at = node.getBoundingClientRect();
    const box = line.getBoundingClientRect();
    table.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - 236))}px`;
    table.style.top = `${at.bottom - box.top + 4}px`;
  };
  const hide = () => {
    table.hidden = true;
  };
  let chars = 0;
  let move = 0;
  for (const token of logprobs) {
    while (answer && move < answer.moves.length && chars >= answer.moves[move].at) {
      line.append(h("span", { class: "badge warn move" }, `continued on ${answer.moves[move].group}`));
      move += 1;
    }
    chars += token.token.length;
    line.append(buildToken(token, show, hide));
    if (token.token.includes("\n")) line.append(h("br"));
  }
  line.addEventListener("keydown", (event) => walk(line, event, hide));
  line.addEventListener("pointerleave", hide);
  const first = line.querySelector("button");
  if (first) first.tabIndex = 0;
  return h("div", { class: "token-box" }, buildLegend(), line, table);
}

function buildToken(token, show, hide) {
  const chance = Math.exp(token.logprob);
  const level = LEVELS.findIndex((each) => chance >= each);
  const node = h("button", { type: "button", class: `token p${level < 0 ? LEVELS.length : level}`, tabIndex: -1,
    "aria-label": `${showToken(token.token)}, ${percent(chance)}` }, token.token.replaceAll("\n", "⏎") || "∅");
  node.addEventListener("pointerenter", () => show(token, node));
  node.addEventListener("focus", () => show(token, node));
  node.addEventListener("blur", hide);
  return node;
}

/** Move between tokens by arrow keys: the tokens are one stop of the tab key. */
function walk(line, event, hide) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Escape") hide();
  if (!step) return;
  const all = [...line.querySelectorAll("button.token")];
  const at = all.indexOf(document.activeElement);
  const next = all[Math.max(0, Math.min(all.length - 1, at + step))];
  for (const each of all) each.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  event.preventDefault();
}

function buildLegend() {
  const names = ["90 % or more", "60 %", "30 %", "10 %", "less"];
  return h("p", { class: "legend small-text muted" }, "Probability of each token: ", names.map((name, level) => h("span", { class: `token p${level}` }, name)));
}

function buildAlternatives(token) {
  const rows = (token.top_logprobs?.length ? token.top_logprobs : [token]).map((each) => h("tr", { class: each.token === token.token ? "chosen" : "" },
    h("td", {}, h("code", {}, showToken(each.token))), h("td", { class: "number" }, percent(Math.exp(each.logprob)))));
  return h("table", {}, h("caption", { class: "visually-hidden" }, "Most probable tokens here"), h("tbody", {}, rows));
}

/** Return a token with its white space made visible. */
export function showToken(text) {
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ /, "␣") || "∅";
}

function percent(chance) {
  return `${(chance * 100).toFixed(chance > 0.0995 ? 0 : 2)} %`;
}

/** Return for each token of `tokens` whether it is part of a longest common subsequence with `reference`. */
export function findCommon(tokens, reference) {
  const common = new Array(tokens.length).fill(false);
  let head = 0;
  while (head < tokens.length && head < reference.length && tokens[head] === reference[head]) common[head++] = true;
  const rows = tokens.length - head;
  const columns = reference.length - head;
  if (rows * columns > MOST_CELLS) return common;
  const lengths = Array.from({ length: rows + 1 }, () => new Uint32Array(columns + 1));
  for (let row = rows - 1; row >= 0; row -= 1) {
    for (let column = columns - 1; column >= 0; column -= 1) {
      lengths[row][column] = tokens[head + row] === reference[head + column]
        ? lengths[row + 1][column + 1] + 1 : Math.max(lengths[row + 1][column], lengths[row][column + 1]);
    }
  }
  for (let row = 0, column = 0; row < rows && column < columns; ) {
    if (tokens[head + row] === reference[head + column]) {
      common[head + row] = true;
      row += 1;
      column += 1;
    } else if (lengths[row + 1][column] >= lengths[row][column + 1]) row += 1;
    else column += 1;
  }
  return common;
}

/** Return the tokens as text; those that `reference` lacks are marked, the first one where the two part strongly. */
export function renderDifference(tokens, reference) {
  const common = findCommon(tokens, reference);
  let first = tokens.findIndex((token, index) => token !== reference[index]);
  if (first < 0 && tokens.length < reference.length) first = tokens.length;
  const nodes = tokens.map((token, index) => {
    if (index === first) return h("mark", { class: "first", title: `token ${index + 1}: the first difference` }, h("span", { class: "visually-hidden" }, "first difference: "), token);
    return common[index] ? token : h("mark", {}, token);
  });
  return { nodes, first };
}
