// Quotes of every hour on the page, and the forward curve of each grade.

import { embedded, lines } from "./charts.js";
import { follow } from "./quotes.js";

for (const host of document.querySelectorAll("[data-curve]")) {
  const curve = embedded(`curve-${host.dataset.curve}`);
  if (!curve?.time.length) continue;
  lines(host, [curve.time, curve.bid, curve.ask, curve.last], [
    { label: "Bid", color: "buy", step: 1 },
    { label: "Ask", color: "sell", step: 1 },
    { label: "Last", color: "accent", points: true, spanGaps: true },
  ]);
}

follow(document.querySelectorAll("table[data-quotes]"));
