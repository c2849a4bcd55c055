// One WebSocket for the page: subscriptions survive a reconnect, and a loss of it is said aloud.
//
// The server sends {type, channel, instrument, sequence, previous_sequence, data}. A book that does
// not follow on from what is held is asked for again; its snapshot then replaces everything.

import { setNow } from "./site.js";

const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 15000;
const PING_MS = 15000;
const SILENCE_MS_MAX = 25000;
const BANNER_DELAY_MS = 1500;

const subscriptions = [];
const banner = document.getElementById("offline");
let socket = null;
let attempts = 0;
let heardAt = 0;
let bannerTimer = null;

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function request(op, { channel, instrument }) {
  send({ op, channel, ...(instrument ? { instrument } : {}) });
}

export function subscribe(channel, instrument, handler) {
  const isFirst = !subscriptions.some((s) => s.channel === channel && s.instrument === instrument);
  subscriptions.push({ channel, instrument, handler });
  if (isFirst) request("subscribe", { channel, instrument });
}

export function resubscribe(channel, instrument) {
  request("unsubscribe", { channel, instrument });
  request("subscribe", { channel, instrument });
}

function showBanner(isOffline) {
  clearTimeout(bannerTimer);
  if (!isOffline) {
    banner.hidden = true;
    return;
  }
  bannerTimer = setTimeout(() => (banner.hidden = false), BANNER_DELAY_MS);
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const opened = new WebSocket(`${scheme}://${location.host}/ws/v1`);
  socket = opened;
  opened.addEventListener("open", () => {
    attempts = 0;
    heardAt = performance.now();
    showBanner(false);
    const asked = new Set();
    for (const { channel, instrument } of subscriptions) {
      const key = `${channel} ${instrument ?? ""}`;
      if (!asked.has(key)) request("subscribe", { channel, instrument });
      asked.add(key);
    }
    send({ op: "ping" });
  });
  opened.addEventListener("message", (event) => {
    heardAt = performance.now();
    const message = JSON.parse(event.data);
    if (message.type === "pong") {
      setNow(message.data.now_ms);
      return;
    }
    for (const { channel, instrument, handler } of subscriptions) {
      if (message.channel !== channel) continue;
      if (!instrument || message.instrument === instrument) handler(message);
    }
  });
  opened.addEventListener("close", () => {
    if (socket !== opened) return;
    socket = null;
    showBanner(true);
    attempts += 1;
    const wait = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** (attempts - 1));
    setTimeout(connect, wait * (0.5 + Math.random() / 2));
  });
}

setInterval(() => {
  send({ op: "ping" });
  if (socket?.readyState === WebSocket.OPEN && performance.now() - heardAt > SILENCE_MS_MAX) {
    socket.close();
  }
}, PING_MS);
window.addEventListener("online", () => {
  if (!socket) connect();
});

connect();
