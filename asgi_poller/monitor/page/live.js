// The WebSocket that snapshots come by, and what the page says of it.

const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 10;
const SILENCE_S = 10; // a server that says nothing for so long is not there
const TOO_MANY = 1013;

const view = new View();
const recent = new Window(LATELY_S);
let points = [];
let version = null;
let seenEvent = null;
let isPaused = false;
let isDrawing = false;
let socket = null;
let wait_s = FIRST_WAIT_S;
let retry = null;
let watchdog = null;
let lostAt = null;

function announce(text) {
  say(by("announcement"), text);
}

function take(snapshot) {
  if (version !== null && version !== snapshot.version) location.reload(); // its page may be another
  version = snapshot.version;
  if (recent.last && !isSameServer(recent.last, snapshot)) {
    announce("The server is another process now.");
    seenEvent = null;
  }
  recent.add(snapshot);
  const queue = acceptQueue(snapshot);
  points.push({
    time: snapshot.time,
    accepted: recent.rate(accepted), refused: recent.rate(refused),
    queue: queue?.queue ?? null, limit: queue?.limit ?? null,
    shake50: recent.percentile(HANDSHAKES, 0.5), shake99: recent.percentile(HANDSHAKES, 0.99),
    lag99: recent.percentile(LAGS, 0.99),
  });
  points = points.filter((point) => point.time > snapshot.time - LONGEST_S && point.time <= snapshot.time);
  announceEvents(snapshot.events);
  draw();
}

function announceEvents(events) {
  const latest = events.at(-1)?.time ?? 0;
  const fresh = events.filter((event) => seenEvent !== null && event.time > seenEvent);
  seenEvent = latest;
  if (fresh.length) announce(fresh.map((event) => `${whoOf(event)} ${kindOf(event)[1]}`).join("; "));
}

function draw() {
  if (isDrawing || isPaused || !recent.last) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    view.show(recent, points);
  });
}

function sayLink(text, className) {
  say(by("link"), text);
  by("link").className = className;
}

function connect() {
  clearTimeout(retry);
  retry = null;
  const path = new URL("live", location.href);
  path.protocol = path.protocol === "https:" ? "wss:" : "ws:";
  path.search = path.hash = "";
  const ours = new WebSocket(path);
  socket = ours;
  expect();
  ours.onmessage = (event) => {
    expect();
    if (lostAt !== null || by("link").className !== "good") connected();
    take(JSON.parse(event.data));
  };
  ours.onclose = (event) => {
    if (socket === ours) disconnected(event.code);
  };
}

/** The next snapshot comes soon, or the connection is given up. */
function expect() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    const silent = socket;
    disconnected(0);
    silent.close();
  }, SILENCE_S * 1000);
}

function connected() {
  announce(lostAt === null ? "Connected." : "Connected again.");
  lostAt = null;
  wait_s = FIRST_WAIT_S;
  sayLink("● Live", "good");
  by("notice").hidden = true;
}

function disconnected(code) {
  clearTimeout(watchdog);
  socket = null;
  if (lostAt === null) {
    lostAt = Date.now() / 1000;
    points.push({ time: lostAt }); // a gap in the curves
    sayLink("▲ Disconnected", "bad");
    announce("Disconnected from the server. Trying again.");
  }
  const why = code === TOO_MANY ? "Too many pages look at this server." : "Disconnected from the server";
  say(by("notice-text"), `${why} since ${clock(lostAt)}. The figures are from before. Trying again …`);
  by("notice").hidden = false;
  askWhetherSignedOut();
  retry = setTimeout(connect, wait_s * 1000 * (0.75 + Math.random() / 2));
  wait_s = Math.min(LONGEST_WAIT_S, wait_s * 2);
}

/** A handshake's status is not told to scripts: a request's is. */
async function askWhetherSignedOut() {
  try {
    const response = await fetch("status.json", { cache: "no-store" });
    if (response.status === 401) location.reload();
  } catch {
    // the server is away
  }
}

function connectNow() {
  if (socket !== null) return;
  wait_s = FIRST_WAIT_S;
  connect();
}

by("retry").addEventListener("click", connectNow);
addEventListener("online", connectNow);
addEventListener("resize", draw);
document.addEventListener("visibilitychange", () => { if (!document.hidden) connectNow(); });
by("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  by("pause").setAttribute("aria-pressed", `${isPaused}`);
  draw();
});
connect();
