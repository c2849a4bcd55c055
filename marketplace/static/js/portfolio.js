// The portfolio, live: balances and orders by their channels, the rest read again when they move.

import { subscribe } from "./feed.js";
import { watch, watchAccount } from "./orders.js";
import { addLocal } from "./site.js";

const READ_AGAIN_MS = 1000;
const PARTS = ["margin-call", "positions", "fills", "ledger"];

const seen = new Map();
let isDue = false;

// Whatever moves money or lots may add to each of them, and the server knows how they are printed.
async function readAgain() {
  isDue = false;
  const response = await fetch(location.pathname, { redirect: "error" });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const id of PARTS) {
    const [part, next] = [document.getElementById(id), fresh.getElementById(id)];
    if (seen.get(id) === next.innerHTML || part.contains(document.activeElement)) continue;
    seen.set(id, next.innerHTML);
    const top = part.querySelector(".scroll")?.scrollTop ?? 0;
    part.replaceChildren(...next.childNodes);
    part.querySelector(".scroll")?.scrollTo({ top });
    part.querySelectorAll("time").forEach(addLocal);
  }
}

function schedule({ type }) {
  if (isDue) return;
  isDue = true;
  setTimeout(() => readAgain().catch(() => {}), READ_AGAIN_MS);
}

watch({ symbol: "" });
watchAccount();
subscribe("account", undefined, schedule);
subscribe("fills", undefined, schedule);
