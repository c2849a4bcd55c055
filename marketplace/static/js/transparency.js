// Pools and classes, live, and the history of one pool as charts.

import { subscribe } from "./feed.js";

const UNMEASURED = "–";

function text(field, value) {
  if (value === null || value === undefined) return UNMEASURED;
  if (field === "utilisation") return `${(value * 100).toFixed(1)} %`;
  return typeof value === "number" ? value.toLocaleString("en-US", { maximumFractionDigits: 3 }) : value;
}

const table = document.getElementById("pools");
if (table) {
  subscribe("transparency", undefined, ({ instrument, data }) => {
    for (const one of data.classes ?? []) {
      const pool = CSS.escape(data.pool ?? instrument);
      const row = table.querySelector(`tr[data-pool="${pool}"][data-class="${CSS.escape(one.service_class)}"]`);
      if (!row) continue;
      for (const node of row.querySelectorAll("[data-field]")) {
        const field = node.dataset.field;
        if (field in one) node.textContent = text(field, one[field]);
      }
    }
  });
}

const hosts = document.querySelectorAll("[data-history]");
if (hosts.length) {
  const { embedded, lines } = await import("./charts.js");
  const history = embedded("history");
  const COLORS = { P0: "accent", P1: "buy", P2: "accent", P3: "muted" };
  const DASHES = { P0: [2, 3], P1: [6, 4], P3: [6, 4] };
  for (const host of hosts) {
    const field = host.dataset.history;
    const columns = [history.time, ...history.classes.map((one) => history[field][one])];
    const series = history.classes.map((one) => ({
      label: one, color: COLORS[one], dash: DASHES[one], digits: field === "jain" ? 3 : 0, points: history.time.length < 40,
    }));
    lines(host, columns, series, { digits: field === "jain" ? 2 : 0, fromZero: true });
  }
}
