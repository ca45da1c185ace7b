// From the latest snapshots to the page.

const LATELY_S = 10; // percentiles in tables and tiles are of so long
const STATES = { serving: ["●", "good"], starting: ["◔", "first"], draining: ["◆", "second"] };
const HANDSHAKES = (snapshot) => totalCounts(snapshot, "handshake");
const LAGS = (snapshot) => totalCounts(snapshot, "lag");

const TILES = [
  ["WebSockets open", (s) => figure(total(s, "websockets_open"), "websockets_open"),
    (w) => [`${rateText(w.rate((s) => total(s, "websockets_opened")))} opened/s;`,
      figure(total(w.last, "websockets_opened"), "websockets_opened"), "in all"]],
  ["Connections open", (s) => figure(total(s, "connections_open"), "connections_open"),
    (w) => [figure(total(w.last, "requests_running"), "requests_running"), "calls of the application run"]],
  ["Accepted /s", (s, w) => rate("accepted", w.rate(accepted)), (w) => [figure(accepted(w.last), "accepted"), "in all"]],
  ["Refused /s", (s, w) => rate("refused", w.rate(refused)),
    (w) => [figure(refused(w.last), "refused"), "in all"]],
  ["Messages in /s", (s, w) => rate("messages_received", w.rate((s) => total(s, "messages_received"))),
    (w) => [`${size(w.rate((s) => total(s, "bytes_received")))}/s;`,
      figure(total(w.last, "messages_received"), "messages_received"), "in all"]],
  ["Messages out /s", (s, w) => rate("messages_sent", w.rate((s) => total(s, "messages_sent"))),
    (w) => [`${size(w.rate((s) => total(s, "bytes_sent")))}/s;`,
      figure(total(w.last, "messages_sent"), "messages_sent"), "in all"]],
  ["Topics out /s", (s, w) => rate("topic_deliveries", w.rate((s) => total(s, "topic_deliveries"))),
    (w) => [figure(total(w.last, "topic_subscriptions"), "topic_subscriptions"), "subscribed;",
      figure(total(w.last, "topic_drops"), "topic_drops"), "lost"]],
  ["Handshake", (s, w) => duration(w.percentile(HANDSHAKES, 0.99, true)),
    (w) => [`p99; p50 ${duration(w.percentile(HANDSHAKES, 0.5, true))}, of ${LATELY_S} s`]],
  ["Loop lag", (s, w) => duration(w.percentile(LAGS, 0.99, true)), () => [`p99 of ${LATELY_S} s`]],
];

class View {
  constructor() {
    this.tiles = TILES.map(([title, main, more]) => {
      const [number, note] = [made("p", { class: "figure" }), made("p", { class: "more" })];
      by("tiles").append(made("li", {}, made("h3", {}, title), number, note));
      return { number, note, main, more };
    });
    const first = (key, name) => ({ key, name, className: "first" });
    const second = (key, name) => ({ key, name, className: "second" });
    this.charts = [
      new Chart("Accepted and refused in a second", [first("accepted", "accepted"), second("refused", "refused")]),
      new Chart("Accept queue", [first("queue", "waiting"), { key: "limit", name: "limit", className: "limit" }], { text: whole }),
      new Chart("WebSocket handshake", [first("shake50", "p50"), second("shake99", "p99")], { isTime: true, text: duration }),
      new Chart("Lag of the event loops", [first("lag99", "p99")], { isTime: true, text: duration }),
    ];
    by("charts").append(...this.charts.map((chart) => chart.element));
  }

  show(window_, points) {
    const snapshot = window_.last;
    this.showHead(snapshot);
    for (const { number, note, main, more } of this.tiles) {
      fill(number, main(snapshot, window_));
      this.showNote(note, more(window_));
    }
    const crashes = snapshot.events.filter((event) => kindOf(event)[2] === "bad").map((event) => event.time);
    for (const chart of this.charts) chart.draw(points, snapshot.time, crashes);
    this.showLoops(snapshot);
    this.showCloses(snapshot);
    this.showWorkers(snapshot, window_);
    this.showEvents(snapshot);
    this.showAccepting(snapshot, window_);
    keepReachable();
  }

  showNote(place, parts) {
    while (place.children.length > parts.length) place.lastElementChild.remove();
    for (const [index, part] of parts.entries()) {
      const span = place.children[index] ?? place.appendChild(made("span"));
      if (index && span.previousSibling?.nodeType !== Node.TEXT_NODE) span.before(" ");
      fill(span, part);
    }
    place.classList.add("quiet");
  }

  showHead(snapshot) {
    const [glyph, className] = STATES[snapshot.state] ?? ["●", "first"];
    say(by("state"), `${glyph} ${snapshot.state}`);
    by("state").className = `badge ${className}`;
    say(by("version"), snapshot.version);
    by("as-of").dateTime = new Date(snapshot.time * 1000).toISOString();
    say(by("as-of"), clock(snapshot.time));
    say(by("uptime"), age(snapshot.time - snapshot.started_at));
    say(by("pid"), `${snapshot.role} ${snapshot.pid}`);
    say(by("build"), snapshot.build);
    say(by("urls"), snapshot.listeners.map((listener) => listener.url).join(", ") || NONE);
    const host = location.host;
    const open = whole(total(snapshot, "websockets_open"));
    document.title = `${open} WebSockets – asgi-poller at ${host}`;
  }

  showLoops(snapshot) {
    const loops = loopsOf(snapshot);
    const open = loops.map(({ loop }) => loop.values.connections_open);
    const sum = open.reduce((left, right) => left + right, 0);
    const [fewest, most, even] = [Math.min(...open), Math.max(...open), sum / Math.max(1, open.length)];
    const spread = sum ? `, ${(((most - fewest) / even) * 100).toFixed(1)} % of the even share apart` : "";
    const one = loops.length === 1 ? "1 loop" : `${loops.length} loops`;
    say(by("spread"), loops.length ? `${one}: from ${whole(fewest)} to ${whole(most)}${spread}. The line marks the even share.` : "No loop runs.");
    const rows = loops.map(({ worker, loop }, index) => [
      worker.number ? `${worker.number}` : "server", `${loop.index}`, this.bar(index),
      figure(open[index]), sum ? `${((open[index] / sum) * 100).toFixed(1)} %` : NONE,
    ]);
    fillTable("loops", rows, {
      headings: 2,
      mark: (row, index) => {
        row.className = index && loops[index - 1].worker === loops[index].worker ? "same" : "";
        const [bar, line] = [row.querySelector(".fill"), row.querySelector(".even")];
        bar.style.width = `${(open[index] / Math.max(1, most)) * 100}%`;
        line.style.left = `${(even / Math.max(1, most)) * 100}%`;
        line.hidden = !sum;
      },
    });
  }

  bar(index) {
    const there = by("loops").tBodies[0].rows[index]?.cells[2].firstElementChild;
    return there ?? made("div", { class: "track", "aria-hidden": "true" }, made("div", { class: "fill" }), made("div", { class: "even" }));
  }

  showCloses(snapshot) {
    const codes = [...closeCodes(snapshot)];
    const rows = codes.map(([code, who]) => [
      CODES[code] ? `${code} ${CODES[code]}` : code, figure(who.peer), figure(who.application), figure(who.server),
    ]);
    const sum = codes.reduce((all, [, who]) => all + who.peer + who.application + who.server, 0);
    say(by("closes-summary"), sum ? `${whole(sum)} WebSockets have ended, by code and by who closed.` : "No WebSocket has ended yet.");
    by("closes").hidden = !sum;
    fillTable("closes", rows);
  }

  showWorkers(snapshot, window_) {
    const restarts = Object.entries(snapshot.restarts).filter(([, count]) => count);
    const said = restarts.map(([why, count]) => `${whole(count)} ${why}`).join(", ");
    say(by("restarts"), said ? `Replaced: ${said}.` : "None has been replaced.");
    const rows = snapshot.workers.map((worker) => {
      const sum = (name) => worker.loops.reduce((all, loop) => all + (loop.values[name] ?? 0), 0);
      const [glyph] = STATES[worker.state] ?? ["●"];
      const silent = Math.max(0, ...worker.loops.map((loop) => loop.silent_s));
      return [
        worker.number ? `${worker.number}` : "server", `${worker.pid}`,
        `${glyph} ${worker.state}${silent >= 1 ? `, no answer for ${duration(silent)}` : ""}`,
        age(worker.age_s), size(worker.memory_bytes),
        figure(sum("connections_open")), figure(sum("websockets_open")),
        duration(window_.percentile((each) => this.lagOf(each, worker), 0.99, true)),
      ];
    });
    fillTable("workers", rows, {
      mark: (row, index) => { row.cells[2].className = (STATES[snapshot.workers[index].state] ?? ["", ""])[1]; },
    });
  }

  lagOf(snapshot, { number, pid }) {
    const worker = snapshot.workers.find((each) => each.number === number && each.pid === pid);
    return (worker?.loops ?? []).reduce((sum, loop) => addedCounts(sum, histogram("lag", loop.values).counts), []);
  }

  showEvents(snapshot) {
    drawTimeline(by("timeline"), snapshot);
    const key = JSON.stringify(snapshot.events);
    if (key === this.events) return;
    this.events = key;
    by("events").replaceChildren(...[...snapshot.events].reverse().map((event) => {
      const [glyph, word, className] = kindOf(event);
      const when = new Date(event.time * 1000);
      const time = made("time", { datetime: when.toISOString(), title: when.toLocaleString("en-GB") }, clock(event.time));
      const colour = className === "warn" ? "second" : className;
      const what = made("span", { class: colour }, `${glyph} ${word}`);
      return made("li", {}, time, what, made("span", {}, `${whoOf(event)}${event.detail ? `: ${event.detail}` : ""}`));
    }));
    if (!snapshot.events.length) by("events").append(made("li", {}, "Nothing has happened."));
  }

  showAccepting(snapshot, window_) {
    const kernel = [[snapshot.listen_overflows, "overflows"], [snapshot.listen_drops, "drops"]]
      .filter(([count]) => count !== null).map(([count, word]) => `${whole(count)} ${word}`);
    say(by("kernel"), kernel.length ? `The kernel counts ${kernel.join(" and ")} of accept queues on this machine.` : "");
    fillTable("listeners", snapshot.listeners.map(({ url, queue, queue_limit }) => [url, figure(queue), figure(queue_limit)]));
    fillTable("refusals", [...refusals(snapshot)].map(([why, count]) => [why, figure(count)]));
    fillTable("pollers", snapshot.pollers.map((poller, index) => [
      poller.name, figure(poller.accepted),
      duration(window_.percentile((each) => each.pollers[index]?.hand_over.counts ?? [], 0.99, true)),
      figure(poller.waiting), figure(poller.failed), figure(poller.dropped),
    ]));
    by("pollers").hidden = !snapshot.pollers.length;
  }
}
