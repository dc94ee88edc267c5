/** Arithmetic of charts: round axis ends and ticks, places, paths. Pure. */

/** The least round number (1, 2, 2.5 or 5 times a power of ten) that is at least `value`. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= value * 0.999999);
}

/** Return evenly spaced ticks from 0 to `top`; whole numbers only if `whole`. */
export function listTicks(top, whole) {
  const steps = [4, 5, 2, 1].find((each) => !whole || Number.isInteger(top / each)) ?? 1;
  return Array.from({ length: steps + 1 }, (_, at) => (top * at) / steps);
}

/** A path through places; null leaves a gap. `stepped`: level until the next place. */
export function drawPath(places, stepped = false) {
  let path = "";
  let before = null;
  for (const place of places) {
    if (!place) {
      before = null;
      continue;
    }
    const [x, y] = place.map((each) => Math.round(each * 10) / 10);
    path += before === null ? `M${x} ${y}` : stepped ? `H${x}V${y}` : `L${x} ${y}`;
    before = place;
  }
  return path;
}

/** The largest value of some series at one time; stacked ones are added. */
export function findTop(series, stacked) {
  if (!stacked) return Math.max(0, ...series.flatMap((each) => each.values.map((value) => value ?? 0)));
  const length = series[0]?.values.length ?? 0;
  return Math.max(0, ...Array.from({ length }, (_, at) => series.reduce((sum, each) => sum + (each.values[at] ?? 0), 0)));
}
