// Days and times as people say them, in the language of the browser.

const time = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const dayOfYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export const timeOf = (ms: number): string => time.format(ms);
export const fullTimeOf = (ms: number): string => full.format(ms);

/** Days since some day, in the zone of the browser: two times of one day have the same. */
export function dayNumber(ms: number): number {
  const date = new Date(ms);
  return Math.floor(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / 86_400_000);
}

/** "Today", "Yesterday", or the date. */
export function dayName(ms: number, nowMs: number): string {
  const ago = dayNumber(nowMs) - dayNumber(ms);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  return new Date(ms).getFullYear() === new Date(nowMs).getFullYear() ? day.format(ms) : dayOfYear.format(ms);
}
