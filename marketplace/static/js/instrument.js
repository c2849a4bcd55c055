// One instrument, live: book, tape, chart, ticket and own orders.

import { candles as drawCandles, depth as drawDepth, embedded, setDecimals } from "./charts.js";
import { resubscribe, subscribe } from "./feed.js";
import { watch, watchAccount } from "./orders.js";
import { apply } from "./quotes.js";
import { element, timeElement } from "./site.js";
import { start } from "./ticket.js";

const LEVELS_SHOWN = 10;
const TAPE_ROWS_MAX = 60;
const SVG = "http://www.w3.org/2000/svg";
const INTERVAL_SECONDS = { "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86400 };

const root = document.getElementById("instrument");
const symbol = root.dataset.symbol;
const decimals = Number(root.dataset.decimals);
setDecimals(decimals);
const announcer = document.getElementById("announce");
const announce = (text) => (announcer.textContent = text);

// Ticket and own orders

const takeOrder = watch({ symbol, announce });
const ticket = start({ onOrder: takeOrder });
watchAccount();
subscribe("ticker", symbol, ({ data }) => {
  apply(root.querySelector(".facts"), data);
  showState(data.state);
  ticket?.setBand(data.band);
});

// A halt takes the ticket away and a resume brings it back, with what was typed.
function showState(state) {
  const closed = document.getElementById("takes-none");
  if (!closed) return;
  const isOpen = state === "call" || state === "continuous";
  if (closed.hidden === isOpen) return;
  document.getElementById("takes-none-state").textContent = state;
  closed.hidden = isOpen;
  document.getElementById("ticket").hidden = !isOpen;
  announce(`Trading is ${isOpen ? "open" : state}.`);
}

// Auction

const auction = document.getElementById("auction");

function showAuction(data) {
  const wasHidden = auction.hidden;
  auction.hidden = !data.kind;
  if (!data.kind) {
    if (!wasHidden && data.last_auction) {
      announce(`The auction ended: ${data.last_auction.quantity} lots at ${data.last_auction.price}.`);
    }
    return;
  }
  const field = (name) => auction.querySelector(`[data-auction="${name}"]`);
  field("kind").textContent = data.kind;
  field("indicative_price").textContent = data.indicative_price ?? "–";
  field("indicative_quantity").textContent = data.indicative_quantity.toLocaleString("en-US");
  field("surplus").textContent = data.surplus_side ? `${data.surplus} lots to ${data.surplus_side}` : "none";
  field("frozen_at").dataset.countdown = data.frozen_at;
  field("ends_at").dataset.countdown = data.ends_at;
}

subscribe("auction", symbol, ({ data }) => showAuction(data));

// Book

const book = { bids: new Map(), asks: new Map(), sequence: null };
let drawPending = false;
let updateDepth = null;

function sorted(levels, isBid) {
  const rows = [...levels].map(([price, lots]) => [price, lots, Number(price)]);
  return rows.sort((a, b) => (isBid ? b[2] - a[2] : a[2] - b[2]));
}

function levelRow([price, lots], share, side) {
  const svg = document.createElementNS(SVG, "svg");
  const rect = document.createElementNS(SVG, "rect");
  svg.setAttribute("viewBox", "0 0 100 22");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", String(share));
  rect.setAttribute("height", "22");
  svg.append(rect);
  let cell = price;
  if (ticket) {
    cell = element("button", { type: "button", title: "Use this price" }, price);
    cell.addEventListener("click", () => ticket.setPrice(price));
  }
  return element(
    "tr",
    {},
    element("td", { class: side }, cell),
    element("td", { class: "num" }, lots.toLocaleString("en-US")),
    element("td", { class: "bar" }, svg),
  );
}

function drawBook() {
  drawPending = false;
  const bids = sorted(book.bids, true);
  const asks = sorted(book.asks, false);
  const topBids = bids.slice(0, LEVELS_SHOWN);
  const topAsks = asks.slice(0, LEVELS_SHOWN);
  const largest = Math.max(1, ...topBids.map((l) => l[1]), ...topAsks.map((l) => l[1]));
  const rows = (levels, side) =>
    levels.map((level) => levelRow(level, Math.round((100 * level[1]) / largest), side));
  if (!document.getElementById("book").contains(document.activeElement)) {
    document.getElementById("bids").replaceChildren(...rows(topBids, "buy"));
    document.getElementById("asks").replaceChildren(...rows(topAsks, "sell").reverse());
  }
  const spread = document.getElementById("spread");
  if (bids.length && asks.length && bids[0][2] >= asks[0][2]) {
    spread.textContent = `Crossed by ${(bids[0][2] - asks[0][2]).toFixed(decimals)} until the auction`;
  } else if (bids.length && asks.length) {
    const gap = asks[0][2] - bids[0][2];
    spread.textContent = `Spread ${gap.toFixed(decimals)}, ${((200 * gap) / (asks[0][2] + bids[0][2])).toFixed(1)} %`;
  } else {
    spread.textContent = bids.length || asks.length ? "One side only" : "The book is empty";
  }
  document.getElementById("book-sequence").textContent = book.sequence ?? "–";
  const strip = (levels) => levels.map(([price, lots]) => [price, lots]);
  if (depthHost.hidden === false) {
    if (updateDepth) updateDepth(strip(bids), strip(asks));
    else updateDepth = drawDepth(depthHost, strip(bids), strip(asks));
  }
}

function scheduleBook() {
  if (drawPending) return;
  drawPending = true;
  requestAnimationFrame(drawBook);
}

function takeLevels(side, levels) {
  for (const [price, lots] of levels) {
    if (lots === 0) side.delete(price);
    else side.set(price, lots);
  }
}

subscribe("book", symbol, (message) => {
  const { type, sequence, previous_sequence: previous, data } = message;
  if (type === "snapshot") {
    book.bids = new Map(data.bids);
    book.asks = new Map(data.asks);
  } else {
    if (book.sequence === null) return;
    if (previous !== book.sequence) {
      book.sequence = null;
      resubscribe("book", symbol);
      return;
    }
    takeLevels(book.bids, data.bids);
    takeLevels(book.asks, data.asks);
  }
  book.sequence = sequence;
  scheduleBook();
});

// Tape and chart

const chartHost = document.getElementById("chart");
const depthHost = document.getElementById("depth");
const interval = document.querySelector("[data-interval][aria-current]").dataset.interval;
const step = INTERVAL_SECONDS[interval];
const rows = embedded("candles");
let updateCandles = null;

function drawChart() {
  if (!rows.length || chartHost.hidden) return;
  if (updateCandles) updateCandles(rows);
  else updateCandles = drawCandles(chartHost, rows, step);
}

function takeTrade(trade) {
  const tape = document.getElementById("tape");
  tape.querySelector(".none")?.remove();
  const { side } = trade;
  tape.prepend(
    element(
      "tr",
      { class: "flash" },
      element("td", {}, timeElement(trade.at)),
      element("td", { class: "num" }, trade.price),
      element("td", { class: "num" }, trade.quantity.toLocaleString("en-US")),
      trade.is_auction ? element("td", { class: "muted" }, "auction") : element("td", { class: side }, side),
    ),
  );
  while (tape.rows.length > TAPE_ROWS_MAX) tape.lastElementChild.remove();
  const time = Math.floor(Date.parse(trade.at) / 1000 / step) * step;
  const price = Number(trade.price);
  const last = rows.at(-1);
  if (last?.time === time) {
    last.high = Math.max(last.high, price);
    last.low = Math.min(last.low, price);
    last.close = price;
    last.volume += trade.quantity;
  } else {
    rows.push({ time, open: price, high: price, low: price, close: price, volume: trade.quantity });
  }
  document.getElementById("no-trades")?.remove();
  if (depthHost.hidden) chartHost.hidden = false;
  drawChart();
}

drawChart();
subscribe("trades", symbol, ({ type, data }) => {
  if (type === "snapshot") return;
  for (const trade of Array.isArray(data) ? data : [data]) takeTrade(trade);
});

const depthButton = document.querySelector("[data-view=depth]");
depthButton.hidden = false;
depthButton.addEventListener("click", () => {
  const isDepth = depthHost.hidden;
  depthButton.setAttribute("aria-pressed", String(isDepth));
  depthHost.hidden = !isDepth;
  chartHost.hidden = isDepth || !rows.length;
  const note = document.getElementById("no-trades");
  if (note) note.hidden = isDepth;
  if (isDepth) scheduleBook();
  else drawChart();
});
