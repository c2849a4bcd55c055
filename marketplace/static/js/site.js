// What every page has: the menu, the market's clock, local times, countdowns, copy buttons.
//
// Market time is the server's, given with the page and corrected by the feed's pongs: a
// demonstration's clock can be moved, so the reader's own clock is never shown as the market's.

const loadedAt = performance.now();
let skew = Number(document.body.dataset.now) - loadedAt;

export function now() {
  return performance.now() + skew;
}

export function setNow(milliseconds) {
  skew = milliseconds - performance.now();
}

export function two(number) {
  return String(number).padStart(2, "0");
}

export function clockText(milliseconds, seconds = true) {
  const moment = new Date(milliseconds);
  const text = `${two(moment.getUTCHours())}:${two(moment.getUTCMinutes())}`;
  return seconds ? `${text}:${two(moment.getUTCSeconds())}` : text;
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A time element with the UTC text and the reader's local time on hover.
export function timeElement(iso, seconds = true) {
  const moment = Date.parse(iso);
  const made = element("time", { datetime: iso }, clockText(moment, seconds));
  addLocal(made);
  return made;
}

export function addLocal(node) {
  const moment = new Date(node.dateTime);
  if (Number.isNaN(moment.valueOf())) return;
  const utc = moment.toISOString().slice(0, 19).replace("T", " ");
  node.title = `${utc} UTC\n${moment.toLocaleString(undefined, { timeZoneName: "short" })}`;
}

function countdownText(left, over) {
  if (Number.isNaN(left)) return "–";
  if (left <= 0) return over ?? "closed";
  const seconds = Math.floor(left / 1000);
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  if (hours >= 72) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours > 0
    ? `${hours} h ${two(minutes)} min`
    : `${minutes} min ${two(seconds % 60)} s`;
}

const clock = document.getElementById("clock");
const date = document.querySelector(".clock .date");

function tick() {
  const moment = now();
  if (clock) {
    clock.textContent = clockText(moment);
    clock.dateTime = new Date(moment).toISOString();
    date.textContent = new Date(moment).toISOString().slice(0, 10) + " ";
  }
  for (const node of document.querySelectorAll("[data-countdown]")) {
    const text = countdownText(Date.parse(node.dataset.countdown) - moment, node.dataset.over);
    if (node.textContent !== text) node.textContent = text;
  }
  setTimeout(tick, 1000 - (now() % 1000));
}

document.querySelectorAll("time[datetime]:not(#clock)").forEach(addLocal);
tick();

const toggle = document.querySelector(".nav-toggle");
toggle?.addEventListener("click", () => {
  const isOpen = document.getElementById("nav").classList.toggle("open");
  toggle.setAttribute("aria-expanded", String(isOpen));
});

const menu = document.getElementById("account-menu");
document.addEventListener("click", (event) => {
  if (menu?.open && !menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu?.open) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = label), 1500);
  });
}

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.confirm)) event.preventDefault();
  });
}
for (const input of document.querySelectorAll("[data-autosubmit]")) {
  input.addEventListener("change", () => input.form.requestSubmit());
}
