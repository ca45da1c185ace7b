// What two snapshots say: rates, and percentiles of what came between them. No document here.

const OPEN = ["connections_open", "websockets_open", "requests_running"];

function histogram(name, values) {
  return values?.[name] ?? { counts: [], sum_us: 0 };
}

function addedCounts(left, right) {
  const longer = left.length >= right.length ? left : right;
  return longer.map((_, index) => (left[index] ?? 0) + (right[index] ?? 0));
}

function countsBetween(before, after) {
  return after.map((count, index) => Math.max(0, count - (before[index] ?? 0)));
}

/** Seconds below which `share` of the durations are, as histogram_quantile; null: there are none. */
function quantile(counts, bounds_us, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  const rank = share * total;
  let below = 0;
  for (const [index, count] of counts.entries()) {
    if (count && below + count >= rank) {
      if (index >= bounds_us.length) break;
      const start = index ? bounds_us[index - 1] : 0;
      return (start + ((bounds_us[index] - start) * (rank - below)) / count) / 1e6;
    }
    below += count;
  }
  return bounds_us[bounds_us.length - 1] / 1e6;
}

function loopsOf(snapshot) {
  return snapshot.workers.flatMap((worker) => worker.loops.map((loop) => ({ worker, loop })));
}

/** A plain count over all loops, those that have ended too. */
function total(snapshot, name) {
  const ended = OPEN.includes(name) ? 0 : snapshot.retired[name] ?? 0;
  return loopsOf(snapshot).reduce((sum, { loop }) => sum + (loop.values[name] ?? 0), ended);
}

function totalCounts(snapshot, name) {
  return loopsOf(snapshot).reduce(
    (sum, { loop }) => addedCounts(sum, histogram(name, loop.values).counts),
    histogram(name, snapshot.retired).counts,
  );
}

function accepted(snapshot) {
  if (!snapshot.pollers.length) return total(snapshot, "adopted");
  return snapshot.pollers.reduce((sum, poller) => sum + poller.accepted, 0);
}

/** Why connections or requests were not served, and how often: Map from words to a count. */
function refusals(snapshot) {
  const found = new Map(Object.entries(snapshot.refused));
  const named = { failed: "accept() failed", aborted: "gone before accept()", dropped: "no loop took it" };
  for (const [name, words] of Object.entries(named)) {
    found.set(words, snapshot.pollers.reduce((sum, poller) => sum + poller[name], 0));
  }
  return found;
}

function refused(snapshot) {
  return [...refusals(snapshot).values()].reduce((sum, count) => sum + count, 0);
}

/** Map from code to {peer, application, server}, over all loops. */
function closeCodes(snapshot) {
  const found = new Map();
  const all = [snapshot.retired, ...loopsOf(snapshot).map(({ loop }) => loop.values)];
  for (const { code, by, count } of all.flatMap((values) => values.closes ?? [])) {
    if (!count) continue;
    const row = found.get(`${code}`) ?? { peer: 0, application: 0, server: 0 };
    row[by] += count;
    found.set(`${code}`, row);
  }
  return new Map([...found].sort(([left], [right]) => left.localeCompare(right)));
}

/** The accept queues of all listeners that the system speaks of: {queue, limit}, null for none. */
function acceptQueue(snapshot) {
  const known = snapshot.listeners.filter((listener) => listener.queue !== null);
  if (!known.length) return null;
  return {
    queue: known.reduce((sum, listener) => sum + listener.queue, 0),
    limit: known.reduce((sum, listener) => sum + (listener.queue_limit ?? 0), 0),
  };
}

function isSameServer(before, after) {
  return before !== null && before.pid === after.pid && before.started_at === after.started_at;
}

/** The snapshots of the last seconds, oldest first, and what they say together. */
class Window {
  constructor(seconds) {
    this.seconds = seconds;
    this.snapshots = [];
  }

  add(snapshot) {
    if (this.snapshots.length && !isSameServer(this.snapshots[0], snapshot)) this.snapshots = [];
    this.snapshots.push(snapshot);
    while (this.snapshots.length > 2 && this.snapshots[1].time <= snapshot.time - this.seconds) {
      this.snapshots.shift();
    }
  }

  get last() {
    return this.snapshots.at(-1) ?? null;
  }

  /** The one before the last, or the oldest. */
  before(isOldest) {
    return this.snapshots.length < 2 ? null : this.snapshots.at(isOldest ? 0 : -2);
  }

  /** How many of it there were in a second, lately; null: not known yet. */
  rate(count, isOldest = false) {
    const before = this.before(isOldest);
    if (!before || this.last.time <= before.time) return null;
    return Math.max(0, count(this.last) - count(before)) / (this.last.time - before.time);
  }

  /** A percentile of a histogram that `counts` reads, lately. */
  percentile(counts, share, isOldest = false) {
    const before = this.before(isOldest);
    if (!before) return null;
    return quantile(countsBetween(counts(before), counts(this.last)), this.last.bounds_us, share);
  }
}
