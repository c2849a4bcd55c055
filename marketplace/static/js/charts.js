// Charts on uPlot: candles, lines, the curve, the depth of a book. Colors come from the style sheet.

/* global uPlot */

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function axis(extra = {}) {
  return {
    stroke: color("muted"),
    grid: { stroke: color("chart-grid"), width: 1 },
    ticks: { stroke: color("chart-grid"), width: 1, size: 4 },
    font: "11px system-ui, sans-serif",
    ...extra,
  };
}

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

// Hours of the day as 14:00; the date only where a day begins or the axis does, and alone where all are.
function timeTexts(u, splits) {
  const isDates = splits.every((seconds) => seconds % 86400 === 0);
  return splits.map((seconds, index) => {
    const moment = new Date(seconds * 1000);
    const clock = moment.toISOString().slice(11, 16);
    const date = `${moment.getUTCDate()} ${MONTHS[moment.getUTCMonth()]}`;
    if (isDates) return date;
    return index === 0 || clock === "00:00" ? `${clock}\n${date}` : clock;
  });
}

const utc = (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC");

function options(host, extra) {
  return {
    width: Math.max(200, host.clientWidth),
    height: Number(host.dataset.height ?? 280),
    tzDate: utc,
    cursor: { points: { size: 6 }, y: false, drag: { x: true, y: false } },
    padding: [12, 24, 0, 0],
    ...extra,
  };
}

// Draws into the host, follows its width and the color scheme; returns a function for new data.
function mount(host, build, data) {
  let current = data;
  let chart = null;
  const draw = () => {
    chart?.destroy();
    host.textContent = "";
    chart = new uPlot(options(host, build()), current, host);
  };
  draw();
  let width = host.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(host.clientWidth - width) < 2) return;
    width = host.clientWidth;
    chart.setSize({ width: Math.max(200, width), height: chart.height });
  }).observe(host);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return (next) => {
    current = next;
    chart.setData(next);
  };
}

let decimals = 3;

// Prices of this page have so many digits after the point.
export function setDecimals(count) {
  decimals = count;
}

const price = (u, value) => (value == null ? "–" : value.toFixed(decimals));
const INCREMENTS = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
const WHOLE_INCREMENTS = [1, 2, 5].flatMap((one) => [0, 1, 2, 3, 4, 5, 6, 7, 8].map((zeros) => one * 10 ** zeros)).sort((a, b) => a - b);
const priceTicks = (u, values) => values.map((value) => value.toFixed(decimals));
const increments = () => INCREMENTS.filter((one) => one > 0.99 * 10 ** -decimals);

function drawCandles(u) {
  const { ctx } = u;
  const [times, open, high, low, close] = u.data;
  const scale = devicePixelRatio;
  const x = (index) => Math.round(u.valToPos(times[index], "x", true));
  let step = Infinity;
  for (let i = 1; i < times.length; i += 1) step = Math.min(step, x(i) - x(i - 1));
  const body = Math.max(1 * scale, Math.min(11 * scale, (Number.isFinite(step) ? step : 12) * 0.7));
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  for (let i = 0; i < times.length; i += 1) {
    if (open[i] == null) continue;
    const y = (value) => Math.round(u.valToPos(value, "price", true));
    const isUp = close[i] >= open[i];
    ctx.fillStyle = color(isUp ? "buy" : "sell");
    ctx.fillRect(x(i) - scale / 2, y(high[i]), scale, Math.max(1, y(low[i]) - y(high[i])));
    const top = Math.min(y(open[i]), y(close[i]));
    const height = Math.max(scale, Math.abs(y(open[i]) - y(close[i])));
    ctx.fillRect(x(i) - body / 2, top, body, height);
  }
  ctx.restore();
}

// candles: [{time, open, high, low, close, volume}] with prices as numbers and time in seconds.
export function candleData(candles) {
  const column = (name) => candles.map((candle) => candle[name]);
  return ["time", "open", "high", "low", "close", "volume"].map(column);
}

const CANDLES_MIN = 32;

export function candles(host, rows, step) {
  const hidden = { scale: "price", stroke: "transparent", points: { show: false }, value: price };
  const build = () => ({
    scales: {
      x: {
        time: true,
        range: (u) => {
          const low = u.data[0][0] ?? 0;
          const high = u.data[0].at(-1) ?? 0;
          return [Math.min(low, high - CANDLES_MIN * step) - step, high + 2 * step];
        },
      },
      price: {
        range: (u, low, high) => {
          const lows = u.data[3].filter((value) => value != null);
          const highs = u.data[2].filter((value) => value != null);
          if (!lows.length) return [0, 1];
          const bottom = Math.min(...lows);
          const top = Math.max(...highs);
          const room = Math.max((top - bottom) * 0.12, top * 0.004, 0.003);
          return [bottom - room, top + room];
        },
      },
      volume: { range: (u, low, high) => [0, Math.max(1, high) * 4.5] },
    },
    axes: [axis({ values: timeTexts }), axis({ scale: "price", values: priceTicks, incrs: increments(), size: 56 })],
    series: [
      { label: "Time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
      { label: "Open", ...hidden },
      { label: "High", ...hidden },
      { label: "Low", ...hidden },
      { label: "Close", ...hidden },
      {
        label: "Lots",
        scale: "volume",
        paths: uPlot.paths.bars({ size: [0.6, 10] }),
        fill: color("line-strong") + "66",
        stroke: "transparent",
        points: { show: false },
        value: (u, value) => (value == null ? "–" : value.toLocaleString("en-US")),
      },
    ],
    hooks: { draw: [drawCandles] },
  });
  const update = mount(host, build, candleData(rows));
  return (next) => update(candleData(next));
}

// lines: columns [x seconds, y1, y2, ...]; series: [{label, color, dash, digits, step, fill}].
export function lines(host, columns, series, { unit = "", time = true, digits = 3, fromZero = false } = {}) {
  const show = (value, places) => (value == null ? "–" : `${value.toFixed(places)}${unit}`);
  const build = () => ({
    scales: { x: { time }, y: fromZero ? { range: (u, low, high) => [0, Math.max(1, high * 1.08)] } : {} },
    axes: [
      axis(time ? { values: timeTexts } : { values: priceTicks, incrs: increments() }),
      axis({
        size: 60,
        incrs: digits === 0 ? WHOLE_INCREMENTS : increments(),
        values: (u, values) => values.map((v) => `${digits === 0 ? v.toLocaleString("en-US") : v.toFixed(digits)}${unit}`),
      }),
    ],
    series: [
      time ? { label: "Time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" } : { label: "Price", value: price },
      ...series.map((one) => ({
        label: one.label,
        stroke: color(one.color ?? "accent"),
        width: 1.5,
        dash: one.dash,
        fill: one.fill ? `${color(one.fill)}b3` : undefined, // what lies beneath is seen too
        paths: one.step ? uPlot.paths.stepped({ align: one.step }) : one.points === "only" ? () => null : undefined,
        points: { show: Boolean(one.points), size: 5, fill: color(one.color ?? "accent") },
        spanGaps: one.spanGaps ?? false,
        value: (u, value) => show(value, one.digits ?? digits),
      })),
    ],
  });
  return mount(host, build, columns);
}

// Cumulative depth: bids rise to the left of the best, asks to the right. In an auction they overlap.
export function depthData(bids, asks) {
  const side = (levels, isReached) => {
    const prices = levels.map(([text]) => Number(text));
    const [low, high] = [Math.min(...prices), Math.max(...prices)];
    return (x) => {
      if (!(low <= x && x <= high)) return null;
      return levels.reduce((total, [, lots], i) => total + (isReached(prices[i], x) ? lots : 0), 0);
    };
  };
  const x = [...new Set([...bids, ...asks].map(([text]) => Number(text)))].sort((a, b) => a - b);
  const bid = side(bids, (price, at) => price >= at);
  const ask = side(asks, (price, at) => price <= at);
  return [x, x.map(bid), x.map(ask)];
}

export function depth(host, bids, asks) {
  const series = [
    { label: "Bid lots", color: "buy", fill: "buy-wash", step: -1, digits: 0 },
    { label: "Ask lots", color: "sell", fill: "sell-wash", step: 1, digits: 0 },
  ];
  const update = lines(host, depthData(bids, asks), series, { time: false, digits: 0, fromZero: true });
  return (nextBids, nextAsks) => update(depthData(nextBids, nextAsks));
}

export function embedded(id) {
  const source = document.getElementById(id);
  return source ? JSON.parse(source.textContent) : null;
}
