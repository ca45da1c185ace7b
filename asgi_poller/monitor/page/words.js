// Numbers and names as people read them.

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const NONE = "–";

function whole(number) {
  return number === null ? NONE : WHOLE.format(number);
}

function rateText(rate) {
  if (rate === null) return NONE;
  return rate > 0 && rate < 9.95 ? rate.toFixed(1) : whole(rate);
}

function duration(seconds) {
  if (seconds === null) return NONE;
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
}

function age(seconds) {
  const at = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(at / 86400), Math.floor(at / 3600) % 24, Math.floor(at / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${at % 60} s` : `${at} s`;
}

function size(bytes) {
  if (bytes === null) return NONE;
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let index = 0;
  while (bytes >= 999.5 && index < units.length - 1) {
    bytes /= 1000;
    index += 1;
  }
  return `${bytes < 9.95 && index ? bytes.toFixed(1) : bytes.toFixed(0)} ${units[index]}`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

const CODES = {
  1000: "normal", 1001: "going away", 1002: "protocol error", 1003: "wrong kind of data", 1005: "none given",
  1006: "lost, no Close frame", 1007: "wrong data", 1008: "policy", 1009: "too big", 1010: "no extension",
  1011: "internal error", 1012: "restart", 1013: "try again later", 1014: "bad gateway",
  "3xxx": "of a library", "4xxx": "of the application",
};

/** What an event's kind looks like: a glyph, a word, a class. */
const KINDS = {
  started: ["●", "started", "good"],
  draining: ["◆", "draining", "first"],
  ended: ["■", "ended", "first"],
  crashed: ["▲", "crashed", "bad"],
  blocked: ["▼", "blocked", "warn"],
  recovered: ["●", "recovered", "good"],
  lost: ["▲", "lost", "bad"],
  failed: ["▲", "failed", "bad"],
  reload: ["◆", "reload", "first"],
};

function kindOf(event) {
  return KINDS[event.kind] ?? ["●", event.kind, "first"];
}

function whoOf(event) {
  return event.worker ? `worker ${event.worker} (${event.pid})` : `server (${event.pid})`;
}
