/**
 * A chart of the last fifteen minutes: axes with units, a readout for pointer and arrow keys, and the same figures as a table.
 * Its frame never changes size; what changes is the paths. Knows nothing of what is measured.
 */

import { h, newId, svg } from "/pages/shared/dom.js";
import { keep, setText, show, write } from "./elements.js";
import { clock } from "./format.js";
import { drawPath, findTop, listTicks, roundUp } from "./scale.js";
import { createTable } from "./table.js";

const SPAN_S = 900;
const HEIGHT = 150;
const EDGE = { top: 8, right: 10, bottom: 22, left: 46 };
const MINUTES = [15, 10, 5, 0];

/**
 * `read(points)` returns the series, [{name, look, values}], one value (or null) per point. `look` is a class that colours it.
 * `form`: line, step or bars (stacked; `solid` ones without gaps). `format(value)` writes a value with its unit; `tick(value)` one for the axis.
 */
export function createChart({ title, form = "line", whole = false, solid = false, read, format, tick = format }) {
  const id = newId("chart");
  const readout = h("output", { class: "readout number" });
  const legend = h("ul", { class: `legend ${form}` });
  const picture = createPicture({ form, whole, solid, tick });
  const table = createPointTable(title, format);
  const details = h("details", { class: "small-text" }, h("summary", {}, "As a table"), table.root);
  const root = h(
    "figure",
    { class: "chart", "aria-labelledby": id },
    h("figcaption", { class: "row spread" }, h("h3", { id }, title), readout),
    picture.root,
    legend,
    details,
  );
  let points = [];
  let series = [];
  let chosen = null;
  const render = () => {
    picture.draw(points, series, chosen);
    const at = chosen ?? points.length - 1;
    setText(readout, at < 0 ? "no figures yet" : tell(series, points[at], at, format, chosen === null));
  };
  const choose = (at, spoken) => {
    chosen = at === null ? null : Math.min(points.length - 1, Math.max(0, at));
    write(readout, "aria-live", spoken ? "polite" : "off");
    render();
  };
  picture.root.addEventListener("pointermove", (event) => choose(picture.find(event.offsetX, points), false));
  picture.root.addEventListener("pointerleave", () => choose(null, false));
  picture.root.addEventListener("blur", () => choose(null, false));
  picture.root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !points.length) return;
    event.preventDefault();
    choose((chosen ?? points.length - 1) + step, true);
  });
  details.addEventListener("toggle", () => details.open && table.update(points, series));
  new ResizeObserver(() => requestAnimationFrame(render)).observe(picture.root);
  return {
    root,
    update(latest) {
      points = latest;
      series = read(points);
      if (chosen !== null) chosen = Math.min(chosen, points.length - 1);
      keep(legend, series, {
        key: (each) => each.name,
        create: createEntry,
        update: (node, each) => write(node.firstChild, "class", `swatch ${each.look}`),
      });
      write(picture.root, "aria-label", `${title}, the last 15 minutes. Arrow keys read the values.`);
      render();
      if (details.open) table.update(points, series);
    },
  };
}

function tell(series, point, at, format, latest) {
  const values = series.map((each) => `${each.short ?? each.name} ${format(each.values[at])}`).join(" · ");
  return `${latest ? "" : `${clock(point.at)}  `}${values}`;
}

function createEntry(each) {
  return h("li", {}, h("span", { class: `swatch ${each.look}`, "aria-hidden": "true" }), each.name);
}

function createPicture({ form, whole, solid, tick }) {
  const grid = svg("g", { class: "grid" });
  const marks = svg("g");
  const cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom });
  const root = svg("svg", { class: "picture", role: "img", tabindex: "0", height: HEIGHT }, grid, marks, cursor);
  let width = 0;
  let end = 0;
  const placeX = (at) => EDGE.left + (1 - (end - at) / SPAN_S) * (width - EDGE.left - EDGE.right);
  const draw = (points, series, chosen) => {
    width = root.clientWidth;
    if (!width) return;
    end = points.at(-1)?.at ?? 0;
    const top = roundUp(findTop(series, form === "bars"));
    const placeY = (value) => HEIGHT - EDGE.bottom - (value / (whole ? Math.max(top, 1) : top)) * (HEIGHT - EDGE.top - EDGE.bottom);
    drawGrid(grid, { width, top: whole ? Math.max(top, 1) : top, whole, tick, placeY });
    const shapes =
      form === "bars" ? stack(points, series, solid, { placeX, placeY }) : lines(points, series, form === "step", placeX, placeY);
    keep(marks, shapes, {
      key: (shape) => shape.name,
      create: () => svg("path", { "vector-effect": "non-scaling-stroke" }),
      update: (node, shape) => {
        write(node, "class", `mark ${form} ${shape.look}`);
        write(node, "d", shape.path);
      },
    });
    const x = chosen === null || !points[chosen] ? null : placeX(points[chosen].at);
    write(cursor, "visibility", x === null ? "hidden" : "visible");
    if (x !== null) {
      write(cursor, "x1", x);
      write(cursor, "x2", x);
    }
  };
  const find = (x, points) => {
    const distances = points.map((point) => Math.abs(placeX(point.at) - x));
    return distances.length ? distances.indexOf(Math.min(...distances)) : null;
  };
  return { root, draw, find };
}

function drawGrid(grid, { width, top, whole, tick, placeY }) {
  const ticks = listTicks(top, whole).map((value) => ({ name: `y${value}`, y: placeY(value), text: tick(value) }));
  const inner = width - EDGE.left - EDGE.right;
  const times = MINUTES.map((minutes) => ({
    name: `x${minutes}`,
    x: EDGE.left + (1 - minutes / 15) * inner,
    text: minutes ? `−${minutes} min` : "now",
  }));
  keep(grid, [...ticks, ...times], {
    key: (each) => each.name,
    create: (each) => svg("g", {}, each.y === undefined ? null : svg("line", {}), svg("text", {})),
    update: (node, each) => {
      const text = node.lastChild;
      setText(text, each.text);
      if (each.y === undefined) {
        write(text, "x", each.x);
        write(text, "y", HEIGHT - 6);
        write(text, "text-anchor", each.name === "x0" ? "end" : "middle");
        return;
      }
      for (const [name, value] of Object.entries({ x1: EDGE.left, x2: width - EDGE.right, y1: each.y, y2: each.y }))
        write(node.firstChild, name, value);
      write(text, "x", EDGE.left - 6);
      write(text, "y", each.y + 4);
      write(text, "text-anchor", "end");
    },
  });
}

function lines(points, series, stepped, placeX, placeY) {
  return series.map(({ name, look, values }) => {
    const places = values.map((value, at) =>
      value === null || value === undefined ? null : [placeX(points[at].at), placeY(value)],
    );
    return { name, look, path: drawPath(places, stepped) };
  });
}

function stack(points, series, solid, { placeX, placeY }) {
  const below = points.map(() => 0);
  const gap = points.length > 1 ? placeX(points[1].at) - placeX(points[0].at) : 8;
  const wides = points.map((point, at) => {
    if (!solid) return Math.max(1, Math.min(8, gap * 0.7));
    return at ? Math.min(3 * gap, placeX(point.at) - placeX(points[at - 1].at)) + 0.3 : gap;
  });
  return series.map(({ name, look, values }) => {
    let path = "";
    values.forEach((value, at) => {
      if (!value) return;
      const [bottom, top] = [placeY(below[at]), placeY(below[at] + value)];
      below[at] += value;
      const left = placeX(points[at].at) - wides[at];
      path += `M${left.toFixed(1)} ${bottom.toFixed(1)}V${top.toFixed(1)}h${wides[at].toFixed(1)}V${bottom.toFixed(1)}z`;
    });
    return { name, look, path };
  });
}

function createPointTable(title, format) {
  const box = h("div", {});
  let table = null;
  let names = "";
  return {
    root: box,
    update(points, series) {
      const now = series.map((each) => each.name).join("\n");
      if (!table || now !== names) {
        names = now;
        const columns = series.map((each, at) => ({ title: each.name, number: true, show: (row) => format(row.values[at]) }));
        table = createTable({
          label: title,
          scrolls: true,
          key: (row) => row.at,
          empty: "No figures yet.",
          columns: [{ title: "Time", show: (row) => clock(row.at) }, ...columns],
        });
        box.replaceChildren(table.root);
      }
      table.update(points.map((point, at) => ({ at: point.at, values: series.map((each) => each.values[at]) })).reverse());
      show(box, true);
    },
  };
}
