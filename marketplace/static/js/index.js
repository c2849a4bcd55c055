// The index as a line per grade.

import { embedded, lines } from "./charts.js";

for (const host of document.querySelectorAll("[data-index]")) {
  const series = embedded(`index-${host.dataset.index}`);
  if (!series?.time.length) continue;
  lines(host, [series.time, series.price], [{ label: "Index", step: 1, points: series.time.length < 60 }]);
}
