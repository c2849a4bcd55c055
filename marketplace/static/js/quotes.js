// Keeps elements marked with data-field up to date from a ticker, and flashes what changed.

import { subscribe } from "./feed.js";

const STATE_CLASSES = { continuous: "live", call: "wait", halted: "bad", scheduled: "wait" };

function text(field, value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.join(" to ");
  return typeof value === "number" ? value.toLocaleString("en-US") : String(value);
}

export function apply(root, data) {
  for (const node of root.querySelectorAll("[data-field]")) {
    const field = node.dataset.field;
    if (!(field in data)) continue;
    if (field === "state") {
      const state = String(data.state);
      const tag = node.querySelector(".tag");
      if (tag && tag.textContent !== state) {
        tag.textContent = state;
        tag.className = `tag ${STATE_CLASSES[state] ?? ""}`;
      }
      continue;
    }
    const next = text(field, data[field]);
    if (node.textContent === next) continue;
    node.textContent = next;
    node.classList.remove("flash");
    void node.offsetWidth;
    node.classList.add("flash");
  }
}

export function follow(tables) {
  const rows = new Map();
  for (const table of tables) {
    for (const row of table.querySelectorAll("tr[data-symbol]")) rows.set(row.dataset.symbol, row);
  }
  if (!rows.size) return;
  subscribe("ticker", undefined, ({ instrument, data }) => {
    const row = rows.get(instrument);
    if (row) apply(row, data);
  });
}
