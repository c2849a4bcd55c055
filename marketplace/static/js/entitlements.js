// What is used of each entitlement, as it is metered.

import { subscribe } from "./feed.js";

const format = (text) => Number(text).toLocaleString("en-US", { maximumFractionDigits: 3 });

if (document.body.dataset.member) {
  subscribe("entitlements", undefined, ({ data }) => {
    for (const one of Array.isArray(data) ? data : [data]) {
      const row = document.querySelector(`tr[data-entitlement="${CSS.escape(one.id)}"]`);
      if (!row) continue;
      const delivered = Number(one.delivered_ntu);
      const remaining = Number(one.remaining_ntu);
      row.querySelector("[data-field=delivered]").textContent = format(delivered);
      row.querySelector("[data-field=remaining]").textContent = format(remaining);
      const share = row.querySelector("[data-field=share]");
      share.value = delivered + remaining > 0 ? (100 * delivered) / (delivered + remaining) : 0;
    }
  });
}
