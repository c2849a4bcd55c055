// The forward curve of a grade: a step for each run of hours with one price.

import { embedded, lines } from "./charts.js";

const host = document.getElementById("curve");
const series = embedded("curve-series");
if (host && series?.time.length) {
  lines(host, [series.time, series.price, series.list, series.index], [
    { label: "Curve", step: 1 },
    { label: "List price", color: "muted", dash: [6, 4] },
    { label: "Mean index", color: "buy", dash: [2, 4] },
  ]);
}
