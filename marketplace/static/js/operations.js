// The control room, live: the page is read again every few seconds, and each part replaced.
//
// A part in which somebody is deciding stays as it is until they are done.

import { addLocal } from "./site.js";

const READ_AGAIN_MS = 5000;
const PARTS = ["as-of", "alerts", "facts", "queues", "parked", "blocked", "failing", "running", "given-up", "processes", "leases", "seals"];

const banner = document.getElementById("offline");
const seen = new Map();

function isInUse(part) {
  return part.contains(document.activeElement) || part.querySelector("details[open]") !== null;
}

function replace(id, fresh) {
  const [part, next] = [document.getElementById(id), fresh.getElementById(id)];
  if (!part || !next || seen.get(id) === next.outerHTML || isInUse(part)) return;
  seen.set(id, next.outerHTML);
  const top = part.querySelector(".scroll")?.scrollTop ?? 0;
  if (part.tagName === next.tagName && part.hidden === next.hidden) part.replaceChildren(...next.childNodes);
  else part.replaceWith(next);
  const shown = document.getElementById(id);
  shown.querySelector(".scroll")?.scrollTo({ top });
  shown.querySelectorAll("time").forEach(addLocal);
}

async function readAgain() {
  const response = await fetch(location.pathname, { redirect: "error" });
  if (!response.ok) throw new Error(String(response.status));
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const id of PARTS) replace(id, fresh);
  showLive();
}

function showLive() {
  const tag = document.getElementById("refreshing");
  if (tag) tag.hidden = false;
}

async function poll() {
  try {
    if (document.visibilityState === "visible") await readAgain();
    banner.hidden = true;
  } catch {
    banner.hidden = false;
  }
  setTimeout(poll, READ_AGAIN_MS);
}

seen.set("alerts", document.getElementById("alerts").outerHTML);
showLive();
setTimeout(poll, READ_AGAIN_MS);
