// The forward curve of a grade: a step for each run of hours with one price.

import { embedded, lines } from "./charts.js";

const DAY_S = 86400;
const DAYS_SHOWN = 14;

const host = document.getElementById("curve");
const spans = document.getElementById("curve-spans");
const series = embedded("curve-series");

// The hours of tomorrow would be one stroke in a chart of the year.
function ahead(days) {
  const end = series.time[0] + days * DAY_S;
  const count = series.time.filter((time) => time < end).length;
  const isCut = count < series.time.length;
  const column = (values) => [...values.slice(0, count), ...(isCut ? [values[count - 1]] : [])];
  const time = [...series.time.slice(0, count), ...(isCut ? [end] : [])];
  return [time, column(series.price), column(series.list), column(series.index)];
}

if (host && series?.time.length) {
  const show = lines(host, ahead(DAYS_SHOWN), [
    { label: "Curve", step: 1 },
    { label: "List price", color: "muted", dash: [6, 4] },
    { label: "Mean index", color: "buy", dash: [2, 4] },
  ]);
  const choose = (days) => {
    for (const button of spans.children) button.setAttribute("aria-pressed", String(Number(button.dataset.days) === days));
    show(ahead(days));
  };
  spans.hidden = false;
  spans.addEventListener("click", (event) => {
    if (event.target.dataset.days) choose(Number(event.target.dataset.days));
  });
  choose(DAYS_SHOWN);
}
