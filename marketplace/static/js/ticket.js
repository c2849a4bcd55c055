// The order ticket: what it would cost while it is typed, and placing it without leaving the page.
//
// All arithmetic is in whole micro-USD. What a tick of a lot is worth over the window, and what lots
// ask for at the mark, is the server's to say (settlement/margin.py has the formulas).

import { money, post } from "./orders.js";


function ticksOf(text, decimals) {
  const match = /^\s*(\d{1,7})(?:\.(\d*))?\s*$/.exec(text);
  const rest = match?.[2] ?? "";
  return match && rest.length <= decimals ? BigInt(match[1] + rest.padEnd(decimals, "0")) : null;
}

function microsText(micros) {
  const digits = micros.toString().padStart(7, "0");
  return money(`${digits.slice(0, -6)}.${digits.slice(-6)}`);
}

const greatest = (...values) => values.reduce((most, value) => (value > most ? value : most), 0n);

const ceilDivide = (value, divisor) => (value + divisor - 1n) / divisor;

export function start({ onOrder }) {
  const form = document.getElementById("ticket");
  if (!form) return null;
  const outcome = document.getElementById("outcome");
  const button = form.querySelector("button[value=place]");
  const shown = (name) => form.querySelector(`[data-preview="${name}"]`);

  const tell = (name, text) => {
    if (shown(name)) shown(name).textContent = text;
  };
  // What cover pays is fixed at its listing, and the server's to tell: the preview does.
  const isKnown = (isBuy) => isBuy || form.dataset.product !== "COVER";

  // What a type of order does not have is not shown, and not sent.
  const arrange = () => {
    const type = form.elements.type.value;
    const inForce = form.elements.time_in_force.value;
    for (const part of form.querySelectorAll("[data-for]")) {
      const fits = part.dataset.for.split(" ").includes(type);
      const wanted = part.dataset.inForce ?? inForce;
      part.hidden = !fits || wanted !== inForce;
      for (const input of part.querySelectorAll("input, select")) input.disabled = part.hidden;
    }
    form.elements.price.required = !form.elements.price.disabled;
    form.elements.stop_price.required = !form.elements.stop_price.disabled;
    form.elements.expires_at.required = !form.elements.expires_at.disabled;
  };

  // Without a limit an order may trade anywhere inside the band: its edge is the worst case.
  const worstTicks = (isBuy) =>
    form.elements.price.disabled
      ? BigInt(isBuy ? form.dataset.high : form.dataset.low)
      : ticksOf(form.elements.price.value, Number(form.dataset.decimals));

  const preview = () => {
    arrange();
    const ticks = worstTicks(form.elements.side.value === "buy");
    const lotsText = form.elements.lots.value.trim();
    const lots = /^\d{1,7}$/.test(lotsText) ? BigInt(lotsText) : null;
    const isBuy = form.elements.side.value === "buy";
    button.textContent = isBuy ? "Buy" : "Sell";
    shown("margin-label").textContent = isBuy ? form.dataset.buyLabel : form.dataset.sellLabel;
    if (ticks === null || lots === null) {
      for (const name of ["notional", "fee", "margin", "worst"]) tell(name, "–");
      return;
    }
    const [unit, longFloor, longMark, shortMark, shortCap, lotNtu] = [
      "unit", "longFloor", "longMark", "shortMark", "shortCap", "lotNtu",
    ].map((name) => BigInt(form.dataset[name]));
    const value = unit * ticks;
    const notional = value * lots;
    const fee = ceilDivide(notional * BigInt(form.dataset.takerBp), 10000n);
    const margin = isBuy
      ? greatest((value - longFloor) * lots, longMark * lots, (value - shortCap) * lots)
      : greatest((longFloor - value) * lots, shortMark * lots, (shortCap - value) * lots);
    const strike = BigInt(form.dataset.strike);
    tell("notional", `$${microsText(notional)}`);
    tell("fee", `$${microsText(fee)}`);
    tell("margin", isKnown(isBuy) ? `$${microsText(margin + fee)}` : "–");
    tell("tokens", `${(lots * lotNtu).toLocaleString("en-US")} NTU`);
    tell("worst", isBuy ? `$${microsText(notional + unit * strike * lots + fee)}` : "–");
  };

  const say = (text, kind) => {
    outcome.textContent = text;
    outcome.className = `outcome notice ${kind}`;
  };

  form.addEventListener("input", preview);
  form.addEventListener("change", preview);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const isPreview = event.submitter?.value === "preview";
    button.disabled = true;
    try {
      if (isPreview) {
        say((await post(form, { intent: "preview" })).foreseen, "info");
        return;
      }
      const { order, next_client_order_id: nextId } = await post(form, { intent: "place" });
      form.elements.client_order_id.value = nextId;
      const done = order.filled_quantity;
      const verb = order.side === "buy" ? "Bought" : "Sold";
      if (done === order.quantity) say(`${verb} ${done} lots at ${order.average_price}.`, "success");
      else if (done > 0) say(`${verb} ${done} of ${order.quantity} lots; order ${order.status.replace("_", " ")}.`, "success");
      else {
        const why = order.reason ? ` (${order.reason.replaceAll("_", " ")})` : "";
        const once = order.status === "untriggered" ? `, once ${order.stop_price} is reached` : "";
        const at = (order.price ? ` at ${order.price}` : "") + once;
        say(`Order ${order.status}${why}: ${order.side} ${order.quantity} lots${at}.`, why ? "info" : "success");
      }
      onOrder?.(order);
    } catch (failure) {
      say(failure.message, "error");
    } finally {
      button.disabled = false;
    }
  });
  preview();
  return {
    setBand([low, high]) {
      form.dataset.low = ticksOf(low, Number(form.dataset.decimals));
      form.dataset.high = ticksOf(high, Number(form.dataset.decimals));
      preview();
    },
    setPrice(text) {
      if (form.elements.price.disabled) return;
      form.elements.price.value = text;
      preview();
    },
  };
}
