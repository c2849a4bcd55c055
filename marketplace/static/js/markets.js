// Quotes of every hour on the page, and the forward curve of each grade.

import { embedded, lines } from "./charts.js";
import { follow } from "./quotes.js";

const HOUR = 3600;

for (const host of document.querySelectorAll("[data-curve]")) {
  const curve = embedded(`curve-${host.dataset.curve}`);
  if (!curve?.time.length) continue;
  const end = curve.time.at(-1) + HOUR;
  const extended = (column) => [...column, column.at(-1)];
  lines(host, [[...curve.time, end], extended(curve.bid), extended(curve.ask), [...curve.last, null]], [
    { label: "Bid", color: "buy", step: 1 },
    { label: "Ask", color: "sell", step: 1 },
    { label: "Last", color: "accent", points: "only" },
  ]);
}

follow(document.querySelectorAll("table[data-quotes]"));
