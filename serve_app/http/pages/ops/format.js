/** Writes figures for people: durations, bytes, counts, times. Pure functions; null and undefined become a dash. */

import { formatBytes, formatNumber } from "/pages/shared/format.js";

export const NONE = "–";
const clockTimes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const missing = (value) => value === null || value === undefined;

/** 1234 -> "1,234". */
export const count = (value) => formatNumber(value);

/** Seconds: 0.0421 -> "42 ms", 12.34 -> "12.3 s", 754 -> "12 min 34 s", 93600 -> "1 d 2 h". */
export function duration(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds < 0.0005) return "0 s";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return whole < 3600
    ? pair(Math.floor(whole / 60), "min", whole % 60, "s")
    : whole < 86400
      ? pair(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min")
      : pair(Math.floor(whole / 86400), "d", Math.floor((whole % 86400) / 3600), "h");
}

const pair = (large, largeUnit, small, smallUnit) => `${large} ${largeUnit}${small ? ` ${small} ${smallUnit}` : ""}`;

/** Whole seconds of an age, without a fraction that flickers: 12.7 -> "12 s". */
export const age = (seconds) =>
  missing(seconds) ? NONE : seconds < 60 ? `${Math.max(0, Math.floor(seconds))} s` : duration(Math.floor(seconds));

/** 1503238553 -> "1.4 GiB". */
export const bytes = formatBytes;

/** Tokens per second: 55.14 -> "55.1". */
export const rate = (value) => (missing(value) ? NONE : value >= 100 ? count(value) : value.toFixed(1));

/** 0.0213 -> "2 %". */
export const percent = (part) => (missing(part) ? NONE : `${Math.round(part * 100)} %`);

/** Unix seconds -> the local time of day, "03:12:44". */
export const clock = (at) => clockTimes.format(new Date(at * 1000));

/** (2, "request") -> "2 requests". */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
