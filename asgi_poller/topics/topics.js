// Topics in the browser: subscribe, publish, and go on after a lost connection where it was lost. No message is missing
// and none comes twice; where too much was missed, onGap() has to fetch the state again. docs/topics.md: In the browser.
const LONGEST_MS = 30_000; // between two attempts
const STABLE_MS = 10_000; // a connection that lasted so long was a good one
const BEAT_MS = 30_000; // who hears nothing for so long asks; without an answer for so long the connection is dead

// A random part of a time that doubles: all clients of a server lose it at once, and must not come back at once.
export const waitMs = (attempt, random = Math.random) => random() * Math.min(LONGEST_MS, 1000 * 2 ** attempt);

export class Topics {
  #url; #onState; #onError; #socket = null; #timer; #beat; #isHeard; #openedAt = Infinity; #attempt = 0; #isClosed = false;
  #topics = new Map(); #leaving = new Map(); // by name: subscriptions; how often the server has still to say "unsubscribed"

  constructor(url, { onState = () => {}, onError = console.warn } = {}) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    [this.#onState, this.#onError] = [onState, onError];
    for (const event of ["online", "offline"]) globalThis.addEventListener?.(event, this);
    this.#connect();
  }
  subscribe(topic, onMessage, { since = null, onGap = () => {} } = {}) { // again: in the place of the first
    this.unsubscribe(topic);
    this.#topics.set(topic, { onMessage, onGap, since });
    this.#send({ subscribe: topic, since });
  }
  unsubscribe(topic) {
    if (this.#topics.delete(topic)) this.#leave(topic);
  }
  publish(topic, value) { // JSON or bytes; whether it was sent
    const isBytes = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
    return isBytes ? this.#send({ publish: topic }, value) : this.#send({ publish: topic, json: value });
  }
  close() {
    this.#isClosed = true;
    for (const event of ["online", "offline"]) globalThis.removeEventListener?.(event, this);
    this.#lose();
  }
  handleEvent({ type }) { // the network is there, or has gone, which a socket may not notice for minutes
    if (type === "online" && !this.#socket) this.#attempt = 0;
    if (type === "offline" || !this.#socket) this.#lose();
  }
  #connect() {
    const socket = this.#socket = new WebSocket(this.#url);
    socket.binaryType = "arraybuffer";
    this.#isHeard = true;
    this.#beat = setInterval(() => {
      if (!this.#isHeard) this.#lose();
      this.#isHeard = false;
      this.#send({ ping: true });
    }, BEAT_MS);
    socket.onopen = () => {
      this.#openedAt = performance.now();
      for (const [topic, { since }] of this.#topics) this.#send({ subscribe: topic, since });
      this.#onState("open");
    };
    socket.onmessage = ({ data }) => this.#take(data);
    socket.onclose = () => this.#lose();
    this.#onState("connecting");
  }
  #lose() {
    clearTimeout(this.#timer);
    clearInterval(this.#beat);
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    socket?.close();
    if (performance.now() - this.#openedAt > STABLE_MS) this.#attempt = 0;
    [this.#socket, this.#openedAt] = [null, Infinity];
    this.#leaving.clear();
    if (!this.#isClosed) this.#timer = setTimeout(() => this.#connect(), waitMs(this.#attempt++));
    this.#onState(this.#isClosed ? "closed" : "waiting");
  }
  #leave(name) {
    if (this.#send({ unsubscribe: name })) this.#leaving.set(name, (this.#leaving.get(name) ?? 0) + 1);
  }
  #send(fields, bytes) { // bytes are behind a line of JSON, both ways
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(bytes ? new Blob([JSON.stringify(fields), "\n", bytes]) : JSON.stringify(fields));
    return true;
  }
  #take(data) {
    this.#isHeard = true;
    const bytes = typeof data === "string" ? null : new Uint8Array(data), end = bytes?.indexOf(10);
    const message = JSON.parse(bytes ? new TextDecoder().decode(bytes.subarray(0, end)) : data);
    const name = message.topic, topic = this.#topics.get(name), left = this.#leaving.get(name) ?? 0;
    if (message.error) this.#onError(message);
    else if (message.unsubscribed) left > 1 ? this.#leaving.set(name, left - 1) : this.#leaving.delete(name);
    else if (!topic || left) return; // it was on its way, and comes once more if it is wanted
    else if ("lost" in message) { // ask for what is missing
      this.#leave(name);
      this.#send({ subscribe: name, since: topic.since });
    } else {
      topic.since = message.id;
      const value = bytes ? bytes.subarray(end + 1) : "json" in message ? message.json : message.text;
      if (!message.subscribed) topic.onMessage(value, message);
      else if (!message.complete) topic.onGap(message);
    }
  }
}
