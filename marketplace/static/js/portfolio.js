// Balances and open orders of the portfolio, live. Fills and the ledger follow on the next load.

import { watch, watchAccount } from "./orders.js";

watch({ symbol: "" });
watchAccount();
