// Charts of the last minutes, drawn as SVG.

const LONGEST_S = 300;
const SPANS_S = [60, 120, LONGEST_S]; // a young page shows less, or its charts would be empty
const HEIGHT = 132;
const INSET = { left: 50, right: 8, top: 8, bottom: 20 };

function niceTop(most) {
  if (most <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= most);
}

/** From a value to a height between 0 and 1, and the values that have a line. */
function scaleFor(values, isTime) {
  if (!isTime) {
    const top = niceTop(Math.max(0, ...values));
    return { at: (value) => value / top, marks: [0, top / 2, top] };
  }
  // Durations differ by powers of ten: 0.1 ms at the bottom, the first power above all at the top.
  const most = Math.max(0.01, ...values);
  const top = Math.ceil(Math.log10(most) - 1e-9);
  const marks = Array.from({ length: top + 5 }, (_, index) => 10 ** (index - 4));
  const at = (value) => Math.max(0, (Math.log10(Math.max(value, 1e-9)) + 4) / (top + 4));
  return { at, marks: marks.filter((_, index) => (top + 4 - index) % Math.ceil((top + 4) / 3) === 0) };
}

class Chart {
  /** `series` are {key, name, className}, values of a point by key; null is a gap. */
  constructor(title, series, { isTime = false, text = rateText } = {}) {
    Object.assign(this, { title, series, isTime, text, cursor_s: null, points: [], crashes: [] });
    this.keys = series.map(() => document.createTextNode(NONE));
    const keys = series.map(({ name, className }, index) => {
      const line = drawn("line", { class: `curve ${className}`, x1: 0, x2: 22, y1: 4, y2: 4 });
      const sample = drawn("svg", { "aria-hidden": "true", viewBox: "0 0 22 8" }, line);
      return made("span", { class: "key" }, sample, `${name} `, this.keys[index]);
    });
    this.plot = drawn("svg", { class: "plot", role: "img", "aria-label": title });
    this.element = made("figure", {}, made("figcaption", {}, made("h3", {}, title), ...keys), this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.point(null));
  }

  point(event) {
    this.cursor_x = event && event.clientX - this.plot.getBoundingClientRect().left;
    this.draw(this.points, this.now, this.crashes);
  }

  /** `points` are {time, gap, ...}, `crashes` times; `now` is the time at the right edge. */
  draw(points, now, crashes) {
    Object.assign(this, { points, now, crashes });
    const width = Math.max(200, this.plot.clientWidth);
    const inner = width - INSET.left - INSET.right;
    const span = SPANS_S.find((each) => each >= now - (points[0]?.time ?? now)) ?? LONGEST_S;
    const x = (time) => width - INSET.right - ((now - time) / span) * inner;
    const values = points.flatMap((point) => this.series.map(({ key }) => point[key] ?? 0));
    const scale = scaleFor(values, this.isTime);
    const y = (value) => INSET.top + (1 - scale.at(value)) * (HEIGHT - INSET.top - INSET.bottom);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.plot.replaceChildren(
      ...this.frame(scale, y, width, span),
      ...crashes.filter((time) => time > now - span).map((time) =>
        drawn("line", { class: "crash", x1: x(time), x2: x(time), y1: INSET.top, y2: HEIGHT - INSET.bottom })),
      ...this.curves(x, y),
    );
    this.readOut(x, inner);
  }

  frame(scale, y, width, span) {
    const found = scale.marks.flatMap((value) => {
      const at = y(value);
      const text = drawn("text", { x: INSET.left - 6, y: at + 4, "text-anchor": "end" }, this.text(value));
      return [drawn("line", { class: "grid", x1: INSET.left, x2: width - INSET.right, y1: at, y2: at }), text];
    });
    const place = { y: HEIGHT - 4 };
    found.push(drawn("text", { ...place, x: INSET.left }, `${span / 60} min ago`));
    found.push(drawn("text", { ...place, x: width - INSET.right, "text-anchor": "end" }, "now"));
    return found;
  }

  curves(x, y) {
    return this.series.flatMap(({ key, className }, index) => {
      let path = "";
      let pieces = "";
      let start = null;
      let last = null;
      const close = () => {
        if (start !== null) pieces += `L${last},${y(0)}L${start},${y(0)}Z`;
        start = null;
      };
      for (const point of this.points) {
        if (point[key] === null || point[key] === undefined) {
          close();
          continue;
        }
        last = x(point.time).toFixed(1);
        const step = `${start === null ? "M" : "L"}${last},${y(point[key]).toFixed(1)}`;
        // A point between two gaps is a dot: a line of no length with a round end.
        path += start === null ? `${step}h.01` : step;
        pieces += step;
        start ??= last;
      }
      close();
      const curve = drawn("path", { class: `curve ${className}`, d: path, "stroke-linecap": "round" });
      return index || this.isTime ? [curve] : [drawn("path", { class: "under", d: pieces }), curve];
    });
  }

  /** What the keys and the text alternative say: the values now, or where the pointer is. */
  readOut(x, inner) {
    let point = this.points.at(-1);
    if (this.cursor_x && this.points.length) {
      const off = (each) => Math.abs(x(each.time) - this.cursor_x);
      point = this.points.reduce((nearest, each) => (off(each) < off(nearest) ? each : nearest));
      const at = x(point.time);
      this.plot.append(drawn("line", { class: "cursor", x1: at, x2: at, y1: INSET.top, y2: HEIGHT - INSET.bottom }));
      const side = at > INSET.left + inner / 2 ? { x: at - 4, "text-anchor": "end" } : { x: at + 4 };
      this.plot.append(drawn("text", { ...side, y: INSET.top + 10 }, clock(point.time)));
    }
    const said = this.series.map(({ key, name }, index) => {
      const now = point?.[key] ?? null;
      this.keys[index].data = now === null ? NONE : this.text(now);
      const known = this.points.map((each) => each[key] ?? null).filter((value) => value !== null);
      if (!known.length) return `${name}: nothing yet`;
      const most = this.text(known.reduce((left, right) => Math.max(left, right)));
      return `${name}: now ${now === null ? "none" : this.text(now)}, most ${most}`;
    });
    this.plot.setAttribute("aria-label", `${this.title}, lately. ${said.join("; ")}.`);
  }
}

/** Events as marks on a line from the server's start, or from the first event, until now. */
function drawTimeline(place, snapshot) {
  const plot = place.firstElementChild ?? place.appendChild(drawn("svg", { class: "line-of-time", role: "img" }));
  const width = Math.max(200, plot.clientWidth);
  const first = Math.min(snapshot.started_at, ...snapshot.events.map((event) => event.time));
  const span = Math.max(1, snapshot.time - first);
  const x = (time) => 8 + ((time - first) / span) * (width - 16);
  plot.setAttribute("viewBox", `0 0 ${width} 52`);
  const marks = snapshot.events.map((event) => {
    const [glyph, , className] = kindOf(event);
    const height = className === "bad" || className === "warn" ? 13 : 30;
    return drawn("text", { class: `mark ${className}`, x: x(event.time), y: height, "text-anchor": "middle" }, glyph);
  });
  plot.replaceChildren(
    drawn("line", { class: "grid", x1: 8, x2: width - 8, y1: 33, y2: 33 }),
    drawn("text", { x: 8, y: 49 }, `${age(span)} ago`),
    drawn("text", { x: width - 8, y: 49, "text-anchor": "end" }, "now"),
    ...marks,
  );
  const faults = snapshot.events.filter((event) => kindOf(event)[2] === "bad").length;
  const label = `${snapshot.events.length} events in ${age(span)}, ${faults} of them crashes or losses; the list below has them`;
  plot.setAttribute("aria-label", label);
}
