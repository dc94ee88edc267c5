// Renders markdown as DOM nodes. Text stays text: HTML in it is shown as it is written, images are not loaded, and links lead to
// http and https only. A marker (`MARK_START`, number, `MARK_END`) in the text becomes the node that `marks` returns for the number.

import { copyButton, h } from "/pages/shared/dom.js";

export const MARK_START = "\uE000";
export const MARK_END = "\uE001";
const MARKS = /\uE000(\d+)\uE001/;
const MOST_DEPTH = 8;
const MOST_INLINE_CHARS = 20_000;

/** Remove the marker characters from a text of unknown origin, so that it cannot place markers. */
export function withoutMarks(text) {
  return text.replace(/[\uE000\uE001]/g, "\uFFFD");
}

/** Return the nodes of a markdown text; `marks(number)` returns a marker's node. */
export function renderMarkdown(text, marks = () => null) {
  return new Renderer(marks).blocks(text.split(/\r?\n/), 0);
}

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*).*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const TABLE_LINE = /^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?\s*)?$/;

class Renderer {
  #marks;

  constructor(marks) {
    this.#marks = marks;
  }

  /** Return the block nodes of some lines. */
  blocks(lines, depth) {
    const found = [];
    let at = 0;
    while (at < lines.length) {
      const line = lines[at];
      const table = this.#readTable(lines, at);
      let match;
      if (!line.trim()) {
        at += 1;
      } else if ((match = FENCE.exec(line))) {
        const end = lines.findIndex((each, index) => index > at && new RegExp(`^ {0,3}${match[2][0]}{${match[2].length},}\\s*$`).test(each));
        const indent = new RegExp(`^ {0,${match[1].length}}`);
        const code = lines.slice(at + 1, end < 0 ? undefined : end).map((each) => each.replace(indent, ""));
        found.push(this.#code(code.join("\n"), match[3]));
        at = end < 0 ? lines.length : end + 1;
      } else if ((match = HEADING.exec(line))) {
        found.push(h("p", { class: `heading h${match[1].length}`, role: "heading", "aria-level": Math.min(6, match[1].length + 2) }, this.inline(match[2])));
        at += 1;
      } else if (RULE.test(line)) {
        found.push(h("hr"));
        at += 1;
      } else if (table) {
        found.push(table.node);
        at = table.end;
      } else if (depth < MOST_DEPTH && QUOTE.test(line)) {
        const end = this.#findEnd(lines, at, (each) => QUOTE.test(each));
        found.push(h("blockquote", {}, this.blocks(lines.slice(at, end).map((each) => QUOTE.exec(each)[1]), depth + 1)));
        at = end;
      } else if (depth < MOST_DEPTH && ITEM.test(line)) {
        const list = this.#readList(lines, at, depth);
        found.push(list.node);
        at = list.end;
      } else {
        const end = this.#findEnd(lines, at, (each, index) => each.trim() && (index === at || !this.#startsBlock(each)));
        found.push(h("p", {}, this.#lines(lines.slice(at, end))));
        at = end;
      }
    }
    return found;
  }

  #startsBlock(line) {
    return [FENCE, HEADING, RULE, QUOTE].some((each) => each.test(line)) || /^ {0,3}(?:[-*+]|1[.)])\s+\S/.test(line);
  }

  #findEnd(lines, at, belongs) {
    let end = at;
    while (end < lines.length && belongs(lines[end], end)) end += 1;
    return end;
  }

  #lines(lines) {
    return lines.flatMap((line, index) => [index ? h("br") : null, ...this.inline(line.trim())]);
  }

  #readList(lines, at, depth) {
    const first = ITEM.exec(lines[at]);
    const indent = first[1].length;
    const ordered = /\d/.test(first[2]);
    const items = [];
    let end = at;
    while (end < lines.length) {
      const match = ITEM.exec(lines[end]);
      if (match && match[1].length <= indent + 1 && /\d/.test(match[2]) === ordered && !RULE.test(lines[end])) {
        items.push([match[4]]);
      } else if (!lines[end].trim()) {
        const next = lines.slice(end).find((each) => each.trim());
        if (!next || !(ITEM.test(next) || /^ {2,}/.test(next))) break;
        items.at(-1).push("");
      } else if (/^\s{2,}/.test(lines[end]) || (!this.#startsBlock(lines[end]) && items.at(-1).at(-1))) {
        items.at(-1).push(lines[end].replace(new RegExp(`^ {0,${indent + first[2].length + 1}}`), ""));
      } else break;
      end += 1;
    }
    const nodes = items.map((item) => {
      const tight = this.blocks(item, depth + 1);
      return h("li", {}, tight.length && tight[0].tagName === "P" && !tight[0].role ? [[...tight[0].childNodes], tight.slice(1)] : tight);
    });
    const start = ordered ? Number.parseInt(first[2], 10) : 1;
    return { node: h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null }, nodes), end };
  }

  #readTable(lines, at) {
    if (!lines[at].includes("|") || at + 1 >= lines.length || !TABLE_LINE.test(lines[at + 1])) return null;
    const end = this.#findEnd(lines, at + 2, (each, index) => index < at + 2 || each.includes("|"));
    const split = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
    const head = split(lines[at]);
    const rows = lines.slice(at + 2, end).map(split);
    const node = h("div", { class: "table-wrap", tabindex: "0", role: "group", "aria-label": "Table" }, h("table", {},
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, this.inline(cell))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, head.map((_, index) => h("td", {}, this.inline(row[index] ?? ""))))))));
    return { node, end };
  }

  #code(code, language) {
    return h("div", { class: "code-block" },
      h("div", { class: "code-head" }, h("span", {}, language || "code"), copyButton(() => code.replace(/\uE000\d+\uE001/g, ""), "Copy", { "aria-label": "Copy the code" })),
      h("pre", { tabindex: "0" }, h("code", {}, this.#text(code))));
  }

  /** Return a text as nodes, with markers in their places. */
  #text(text) {
    return text.split(MARKS).map((part, index) => (index % 2 ? this.#marks(Number(part)) : part)).filter((part) => part);
  }

  /** Return the inline nodes of a text. */
  inline(text, depth = 0) {
    if (depth > MOST_DEPTH || text.length > MOST_INLINE_CHARS) return this.#text(text);
    const found = [];
    let rest = text;
    while (rest) {
      let best = null;
      for (const [pattern, build] of INLINE) {
        const match = pattern.exec(rest);
        if (match && (!best || match.index < best.match.index)) best = { match, build };
      }
      if (!best) break;
      found.push(...this.#text(rest.slice(0, best.match.index)), best.build(this, best.match, depth + 1));
      rest = rest.slice(best.match.index + best.match[0].length);
    }
    return [...found, ...this.#text(rest)];
  }

  plain(text) {
    return this.#text(text);
  }
}

/** Return a link to another page; the text alone where the address is of another scheme. */
function link(address, content) {
  if (!/^https?:\/\//i.test(address)) return h("span", {}, content);
  return h("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, content);
}

const INLINE = [
  [/\\([\\`*_{}[\]()#+\-.!|~>])/, (_, match) => document.createTextNode(match[1])],
  [/(?<!`)(`{1,3})(?!`)([^\n]*?[^`])\1(?!`)/, (renderer, match) => h("code", {}, renderer.plain(match[2].replace(/^ (.+) $/, "$1")))],
  [/!\[([^[\]]*)\]\(([^()\s]*)(?:\s[^()]*)?\)/, (renderer, match, depth) => h("span", { class: "image-note" }, "Image, not loaded: ", link(match[2], renderer.inline(match[1] || match[2], depth)))],
  [/\[([^[\]]+)\]\(([^()\s]*(?:\([^()\s]*\))?[^()\s]*)(?:\s[^()]*)?\)/, (renderer, match, depth) => link(match[2], renderer.inline(match[1], depth))],
  [/\*\*(?!\s)([^\n]+?)(?<!\s)\*\*/, (renderer, match, depth) => h("strong", {}, renderer.inline(match[1], depth))],
  [/(?<!\w)__(?!\s)([^\n]+?)(?<!\s)__(?!\w)/, (renderer, match, depth) => h("strong", {}, renderer.inline(match[1], depth))],
  [/~~(?!\s)([^\n]+?)(?<!\s)~~/, (renderer, match, depth) => h("s", {}, renderer.inline(match[1], depth))],
  [/\*(?![\s*])([^*\n]+?)(?<!\s)\*/, (renderer, match, depth) => h("em", {}, renderer.inline(match[1], depth))],
  [/(?<!\w)_(?![\s_])([^_\n]+?)(?<!\s)_(?!\w)/, (renderer, match, depth) => h("em", {}, renderer.inline(match[1], depth))],
  [/\bhttps?:\/\/[^\s<>"'`)\]\uE000]*[^\s<>"'`)\].,;:!?\uE000]/i, (renderer, match) => link(match[0], match[0])],
];
