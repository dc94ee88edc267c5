/**
 * A table that follows a list of rows: cells are rewritten only where their text changed. On small screens its rows become cards, so
 * every cell carries its column's title. Knows nothing of what the rows mean.
 */

import { h } from "/pages/shared/dom.js";
import { keep, setText, show, write } from "./elements.js";

/**
 * `columns`: [{title, number, minor, wide, show(row, cell), make(cell, current)}]. `show` returns the cell's text, or fills the cell
 * itself and returns undefined; `make` builds a cell's lasting content once, `current()` returns its row as it is now. `minor` columns
 * are left out on small screens. `key(row)` names a row; `mark(row)` returns a class of the row. `empty` is said where no row is.
 * `scrolls`: the keyboard must reach the box, as nothing in it takes the focus.
 */
export function createTable({ label, columns, key, empty, mark = () => "", scrolls = false }) {
  const heads = columns.map((each) => h("th", { scope: "col", role: "columnheader", class: classOf(each) }, each.title));
  const body = h("tbody", { role: "rowgroup" });
  const table = h(
    "table",
    { role: "table", "aria-label": label, class: "cards" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  const nothing = h("p", { class: "muted nothing" }, empty);
  const create = () => {
    const node = h("tr", { role: "row" });
    for (const column of columns) {
      const cell = h("td", { role: "cell", class: classOf(column), "data-title": column.title || null });
      column.make?.(cell, () => node.row);
      node.append(cell);
    }
    return node;
  };
  const update = (node, row) => {
    if (node.row === row) return;
    node.row = row;
    write(node, "class", mark(row) || null);
    columns.forEach((column, at) => {
      const text = column.show?.(row, node.children[at]);
      if (text !== undefined) setText(node.children[at], text);
    });
  };
  const reach = scrolls ? { tabIndex: 0, role: "group", "aria-label": `${label}, table` } : {};
  const root = h("div", { class: "table-box" }, h("div", { class: "table-wrap", ...reach }, table), nothing);
  return {
    root,
    body,
    update(rows) {
      keep(body, rows, { key, create, update });
      show(table, rows.length > 0);
      show(nothing, rows.length === 0);
    },
  };
}

const classOf = ({ number, minor, wide }) =>
  [number && "number", minor && "minor", wide && "wide"].filter(Boolean).join(" ") || null;
