// The reader's open orders: rows follow the private channel, cancels go without leaving the page.

import { subscribe } from "./feed.js";
import { element, timeElement } from "./site.js";

const LIVE = new Set(["open", "partially_filled", "untriggered"]);

export async function post(form, extra = {}) {
  const body = new FormData(form);
  for (const [key, value] of Object.entries(extra)) body.set(key, value);
  const response = await fetch(form.action, {
    method: "POST",
    body,
    headers: { Accept: "application/json" },
    redirect: "error",
  });
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  const answer = isJson ? await response.json() : {};
  if (!response.ok) throw new Error(answer.detail ?? `The server answered ${response.status}.`);
  return answer;
}

// A narrow table may break a symbol after its points.
const breakable = (text) => text.split(".").flatMap((part, at) => (at ? [".", element("wbr"), part] : [part]));

export function watch({ symbol, announce }) {
  const table = document.getElementById("orders");
  if (!table || !document.body.dataset.member) return;
  const body = table.tBodies[0];
  const token = document.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? "";

  const showEmpty = () => {
    const isEmpty = body.rows.length === 0;
    table.hidden = isEmpty;
    document.getElementById("no-orders").hidden = !isEmpty;
    const all = document.getElementById("cancel-all");
    if (all) all.hidden = isEmpty;
  };

  const cancelForm = (order) => {
    const form = element("form", { method: "post", action: "/orders/cancel", "data-cancel": "" });
    form.append(
      element("input", { type: "hidden", name: "csrfmiddlewaretoken", value: token }),
      element("input", { type: "hidden", name: "order", value: order.id }),
      element("input", { type: "hidden", name: "next", value: location.pathname }),
      element(
        "button",
        { class: "quiet", "aria-label": `Cancel ${order.side} order of ${order.quantity} lots at ${order.price ?? "market"}` },
        "Cancel",
      ),
    );
    return form;
  };

  const amendForm = (order) => {
    const form = element("form", { method: "post", action: "/orders/amend", "data-amend": "", class: "inline-form" });
    const field = (name, label, value) =>
      element("label", {}, `${label} `, element("input", { name, inputmode: "decimal", autocomplete: "off", value }));
    form.append(
      element("input", { type: "hidden", name: "csrfmiddlewaretoken", value: token }),
      element("input", { type: "hidden", name: "order", value: order.id }),
      element("input", { type: "hidden", name: "instrument", value: order.instrument }),
      element("input", { type: "hidden", name: "next", value: location.pathname }),
      field("lots", "Lots", order.quantity),
    );
    if (order.price) form.append(field("price", "Price", order.price));
    form.append(element("button", { class: "quiet" }, "Amend"));
    const label = `Amend ${order.side} order of ${order.quantity} lots`;
    return element("details", { class: "amend" }, element("summary", { "aria-label": label }, "Amend"), form);
  };

  const priceNodes = (order) => {
    const nodes = [order.price ?? "market"];
    if (order.stop_price) nodes.push(element("small", {}, `stop ${order.stop_price}`));
    return nodes;
  };

  const rowFor = (order) => {
    const row = element("tr", { "data-order": order.id });
    if (!symbol) {
      const link = element("a", { href: `/markets/${order.instrument}` }, ...breakable(order.instrument));
      row.append(element("th", { scope: "row" }, link));
    }
    row.append(
      element("td", { class: order.side }, order.side),
      element("td", { class: "num", "data-field": "price" }),
      element("td", { class: "num", "data-field": "quantity" }),
      element("td", { class: "num wide", "data-field": "filled" }, String(order.filled_quantity)),
      element("td", { class: "wide", "data-field": "status" }, element("span", { class: "tag" })),
      element("td", { class: "wide" }, timeElement(order.created_at)),
      element("td", { class: "num" }, element("div", { class: "row-buttons" }, amendForm(order), cancelForm(order))),
    );
    return row;
  };

  const take = (order) => {
    if (symbol && order.instrument !== symbol) return;
    let row = body.querySelector(`tr[data-order="${CSS.escape(order.id)}"]`);
    if (!LIVE.has(order.status)) {
      if (row?.contains(document.activeElement)) document.getElementById("orders-title")?.focus();
      row?.remove();
      showEmpty();
      if (row) announce?.(`Order ${order.status.replace("_", " ")}.`);
      return;
    }
    if (!row) {
      row = rowFor(order);
      body.prepend(row);
    }
    row.querySelector("[data-field=price]").replaceChildren(...priceNodes(order));
    row.querySelector("[data-field=quantity]").textContent = order.quantity.toLocaleString("en-US");
    row.querySelector("[data-field=filled]").textContent = order.filled_quantity.toLocaleString("en-US");
    const tag = row.querySelector("[data-field=status] .tag");
    tag.textContent = order.status.replace("_", " ");
    tag.className = `tag ${order.status === "open" ? "live" : "wait"}`;
    if (!row.querySelector("details").open) {
      row.querySelector("[name=lots]").value = order.quantity;
      if (order.price) row.querySelector("[name=price]").value = order.price;
    }
    showEmpty();
  };

  body.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-cancel], [data-amend]")) return;
    event.preventDefault();
    const button = form.querySelector("button");
    const refusal = document.getElementById("orders-refusal");
    refusal.textContent = "";
    button.disabled = true;
    try {
      take((await post(form)).order);
      const amending = form.closest("details");
      if (amending?.contains(document.activeElement)) amending.querySelector("summary").focus();
      amending?.removeAttribute("open");
    } catch (failure) {
      refusal.textContent = failure.message;
    } finally {
      button.disabled = false;
    }
  });

  subscribe("orders", undefined, ({ data }) => {
    for (const order of Array.isArray(data) ? data : [data]) take(order);
  });
  return take;
}

export function watchAccount() {
  if (!document.body.dataset.member) return;
  subscribe("account", undefined, ({ data }) => {
    for (const node of document.querySelectorAll("[data-account]")) {
      const value = data[node.dataset.account];
      if (value !== undefined) node.textContent = money(value);
    }
  });
}

// "1000.057600" as "1,000.0576": two decimals at least.
export function money(value) {
  const [whole, decimals = ""] = String(value).split(".");
  const kept = decimals.replace(/0+$/, "").padEnd(2, "0");
  const sign = whole.startsWith("-") ? "−" : "";
  return `${sign}${BigInt(whole.replace("-", "")).toLocaleString("en-US")}.${kept}`;
}
