"""Thirty days of a market on the real machine: who sheds risk, who bears it, who gains by cheating.

More than fifty organizations trade months, weeks, days, hours, caps and cover of one grade, on the
list prices and request rates of `market_data`, on a machine in memory (`market_world`). Every
invariant is checked after every five-minute interval, in the duels at every full hour. Four days
come first in which the month, the week and the first days are bought. All who cheat are there.
The market runs once more without them and with the listed price as it is, outliers and all, as a
stress. Each cheat also has a duel of its own: two weeks with it and two without, on the same seed.

The figures are in `results/market.json`, the plots in `docs/market-report/`, and what follows from
them is written down in `docs/market-report.md`.
"""

import dataclasses
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import environment
from benchmarks.report import Result

NEEDS_DATA = True
START = 1_795_737_600_000_000
"""November 27, 2026, 00:00 UTC: the month of December trades for two and a half days more."""
WARM_UP_DAYS, DAYS = 4, 30
TOTAL_DAYS = int(os.environ.get("BENCH_DAYS", str(WARM_UP_DAYS + DAYS)))
DUEL_DAYS = min(14, TOTAL_DAYS)
SEEDS = (1,)
CHECK, DUELS_CHECK = 1, 12
"""Intervals from one check of the invariants to the next."""
SCALE = int(os.environ.get("BENCH_SCALE", "1"))
"""So many times fewer organizations of each kind, to try it out."""
PREMIUM_PERCENTS = (8, 3)


def run() -> Result:
    """Run the market, its stress and the duels; the ratio is 1 if nobody gains by cheating."""
    from benchmarks import market_cheats

    names = market_cheats.NAMES
    begun = time.perf_counter()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        market = pool.submit(simulate, names, (), TOTAL_DAYS, CHECK)
        stress = pool.submit(simulate, (), (), TOTAL_DAYS, CHECK, is_raw=True)
        jobs = {
            (name, seed, cheats): pool.submit(
                simulate, (name,) if cheats else (), (name,), DUEL_DAYS, DUELS_CHECK, seed=seed
            )
            for name in names
            for seed in SEEDS
            for cheats in (True, False)
        }
        runs = {key: job.result() for key, job in jobs.items()}
        found = result(market.result(), stress.result(), runs)
    ours = {**found.ours, "wall_seconds": round(time.perf_counter() - begun)}
    return dataclasses.replace(found, ours=ours)


def result(
    found: dict[str, Any], stressed: dict[str, Any], runs: dict[tuple[str, int, bool], Any]
) -> Result:
    """Hold the duels against each other, draw the plots, and say what was found."""
    from benchmarks import market_plots

    duels: dict[str, dict[str, Any]] = {}
    for name, seed in sorted({(name, seed) for name, seed, _ in runs}):
        cheating, honest = runs[name, seed, True], runs[name, seed, False]
        accounts = honest["cheats"][name]
        duel = duels.setdefault(name, {"gains_usd": []})
        gain = sum(cheating["wealth"][n] - honest["wealth"][n] for n in accounts)
        duel["gains_usd"].append(usd(gain))
        duel["gain_usd"] = round(statistics.mean(duel["gains_usd"]), 2)
    market_plots.draw(found, duels, stressed)
    gained = [name for name, duel in duels.items() if duel["gain_usd"] > 0]
    keep = ("hedging", "insurance", "delivery", "default", "margin", "volatility", "index")
    keep = (*keep, "invariants", "volume", "refusals", "speed")
    ours = {key: found[key] for key in keep}
    ours["cheats"] = duels
    ours["gained_by_cheating"] = gained
    ours["listed_price_as_it_is"] = {key: stressed[key] for key in keep}
    return Result(
        bench="market",
        ours=ours,
        ratio=0 if gained else 1,
        load={
            "organizations": found["organizations"],
            "days": found["days"],
            "warm_up_days": WARM_UP_DAYS,
            "duel_days": DUEL_DAYS,
            "seeds": list(SEEDS),
            "check_every_intervals": {
                "market": CHECK,
                "stress": CHECK,
                "duels": DUELS_CHECK,
            },
            "source": found["source"],
        },
    )


def simulate(
    cheating: tuple[str, ...],
    twins: tuple[str, ...],
    days: int,
    check_every: int,
    *,
    is_raw: bool = False,
    data: Any = None,
    scale: int = SCALE,
    seed: int = SEEDS[0],
) -> dict[str, Any]:
    """Run one market; `cheating` cheat, `twins` that do not are there and are honest."""
    from benchmarks import market_cheats, market_data, market_traders
    from benchmarks.market_world import GRADE, World
    from settlement import instructions

    begun = time.perf_counter()
    data = data or market_data.load(is_raw=is_raw)
    world = World(data, start=START, seed=seed)
    world.instruct(
        instructions.DefineGrade(
            grade=GRADE,
            reference_price_ticks=round(data.level(0)),
            premium_percents=PREMIUM_PERCENTS,
        )
    )
    market_traders.usual(world, scale=scale)
    cheats = {
        name: market_cheats.join(world, name, cheats=name in cheating)
        for name in market_cheats.NAMES
        if name in cheating or name in twins
    }
    market_traders.plan_outages(world, days=days)
    name = "+".join((*cheating, *twins)) or "honest"
    world.run(days, check_every=check_every, watch=lambda w: _say(w, name, days))
    return _found(world, cheats, days, time.perf_counter() - begun)


def _say(world: Any, name: str, days: int) -> None:
    day = world.since // 86_400_000_000
    if day % 5 == 0 or day == days:
        environment.say(f"{name[:40]}: day {day} of {days}, {world.counts['trades']} trades")


def _found(world: Any, cheats: dict[str, list[int]], days: int, seconds: float) -> dict[str, Any]:
    """Return everything that is reported of a run, as plain numbers."""
    counts = world.counts
    calls = {kind: counts[f"call {kind}"] for kind in ("OPENING", "VOLATILITY", "REOPENING")}
    ledger = world.ledger
    return {
        "source": world.data.source,
        "organizations": len(world.traders),
        "days": days,
        "cheats": cheats,
        "wealth": {number: world.wealth(number) for number in world.traders},
        "compensation_usd": usd(counts["compensation paid"]),
        "hedging": hedging(world),
        "insurance": insurance(world),
        "delivery": {
            "hours": counts["hours delivered"],
            "lot_hours": counts["lots delivered"],
            "failed_lots": counts["failed lots"],
            "short_mntu": counts["mntu short"],
            "refunded_usd": usd(counts["refunded"]),
            "compensation_due_usd": usd(counts["compensation due"]),
            "compensation_paid_usd": usd(counts["compensation paid"]),
            "buy_in_orders": counts["buy-in orders"],
            "buy_in_lots": counts["buy-in lots"],
        },
        "default": default(world),
        "margin": margin(world),
        "volatility": {
            "calls": calls,
            "by_product": dict(sorted(world.halts_of.items())),
            "started_by": dict(sorted(world.halted_by.items())),
            "share_of_time": {
                product: share(world.sampled[product, True], world.sampled[product, False])
                for product in ("HOUR", "DAY", "WEEK", "MONTH")
            },
            "by_day": [world.halts[day] for day in range(days)],
            "orders_held_by_band": world.bands["held by the band"],
            "orders_out_of_reach": world.bands["out of reach"],
        },
        "index": dict(sorted(world.methods.items())),
        "refusals": dict(sorted(world.refusals.items())),
        "volume": {
            "orders": world.orders,
            "trades": counts["trades"],
            "lot_hours": counts["lot-hours"],
            "notional_usd": usd(counts["notional"]),
            "fees_usd": usd(counts["micros TRADING_FEE"]),
            "variation_usd": usd(counts["micros VARIATION"]),
        },
        "invariants": {"checked": world.checked, "held": True, "final": _digest(world)},
        "speed": {
            "seconds": round(seconds, 1),
            "machine_seconds_per_day": round(world.machine_s / days, 2),
            "check_seconds_per_day": round(world.checks_s / days, 2),
        },
        "notes": world.notes,
        "roles": by_role(world, ledger),
        "paths": paths(world, days),
    }


def _digest(world: Any) -> str:
    return str(world.machine.digest().hex()[:16])


def usd(micros: int) -> float:
    """Return micro-USD in USD, to the cent."""
    return round(micros / 1_000_000, 2)


def share(part: int, rest: int) -> float:
    """Return what share a part has of itself and the rest."""
    return round(part / (part + rest), 4) if part + rest else 0.0


def default(world: Any) -> dict[str, Any]:
    """Return who was called, liquidated and in default, and who bore it."""
    counts = world.counts
    return {
        "margin_calls": counts["MarginCalled"],
        "met": counts["MarginCallMet"],
        "liquidations": counts["LiquidationStarted"],
        "liquidation_orders": counts["liquidation orders"],
        "accounts_called": roles(world, "MarginCalled"),
        "accounts_liquidated": roles(world, "LiquidationStarted"),
        "accounts_defaulted": roles(world, "Defaulted"),
        "defaults": counts["Defaulted"],
        "defaulted_usd": usd(sum(n[3] for n in world.notes if n[1] == "Defaulted")),
        "own_fund_share_usd": usd(counts["micros FUND_USE"]),
        "layer_lent_usd": usd(counts["micros LAYER_LOAN"]),
        "layer_repaid_usd": usd(counts["micros LAYER_REPAYMENT"]),
        "other_shares_usd": usd(counts["micros FUND_SHARE"]),
        "haircuts": counts["HaircutTaken"],
        "fund_usd": usd(sum(a.fund for a in world.machine.state.accounts.values())),
        "debts_usd": {
            f"{world.traders[n].role} {n}": usd(a.debt)
            for n, a in world.machine.state.accounts.items()
            if a.debt
        },
    }


def roles(world: Any, what: str) -> list[str]:
    """Return to whom something happened, by role and number."""
    numbers = sorted({account for _, name, account, _ in world.notes if name == what})
    return [f"{world.traders[number].role} {number}" for number in numbers]


def hedging(world: Any) -> dict[str, Any]:
    """Return by kind of buyer how much its price varies, over what paying as it goes would."""
    kinds: dict[str, list[dict[str, float]]] = {}
    for number, trader in sorted(world.traders.items()):
        if trader.role not in ("hedger", "covered", "payer", "insured") or not trader.lots:
            continue
        kind = f"by {trader.horizon.value.lower()}" if trader.role == "hedger" else trader.role
        found = _prices(world, number)
        if found is not None:
            kinds.setdefault(kind, []).append(found)
    return {
        kind: {
            "buyers": len(rows),
            **{key: round(statistics.mean(row[key] for row in rows), 4) for key in rows[0]},
        }
        for kind, rows in sorted(kinds.items())
    }


def _prices(world: Any, number: int) -> dict[str, float] | None:
    """Return what a buyer paid a million tokens with and what it would have paid without.

    Prices are ticks by hour, and by day, in the month of delivery; tokens that were bought count
    whether they were used or not, and premiums and payments of insurance are not among them.
    """
    from marketplace.contract import DAY, HOUR, MNTU_PER_LOT_HOUR

    paid, plain, days_paid, days_plain = [], [], {}, {}
    bought = used = 0
    for starts_at in range(world.start + WARM_UP_DAYS * DAY, world.at - HOUR, HOUR):
        index = world.index.get(starts_at)
        if index is None:
            continue
        lots, cost = world.entry.get((number, starts_at), (0, 0))
        got, more = world.usage.get((number, starts_at), (0, 0))
        tokens = max(0, lots) * MNTU_PER_LOT_HOUR + more
        if not tokens or not got + more:
            continue
        spent = max(0, cost) * MNTU_PER_LOT_HOUR + more * index * 1.1
        paid.append(spent / tokens)
        plain.append(index * 1.1)
        day = starts_at // DAY
        for days, value in ((days_paid, spent), (days_plain, index * 1.1 * tokens)):
            line = days.setdefault(day, [0.0, 0.0])
            line[0] += value
            line[1] += tokens
        bought += max(0, lots) * MNTU_PER_LOT_HOUR
        used += got + more
    if len(days_paid) < 2:
        return None
    by_day = [value / tokens for value, tokens in days_paid.values()]
    by_day_plain = [value / tokens for value, tokens in days_plain.values()]
    return {
        "price_mean": statistics.mean(paid),
        "unhedged_mean": statistics.mean(plain),
        "variance_ratio_hours": statistics.pvariance(paid) / (statistics.pvariance(plain) or 1),
        "variance_ratio_days": statistics.pvariance(by_day)
        / (statistics.pvariance(by_day_plain) or 1),
        "bought_over_used": bought / used,
    }


def insurance(world: Any) -> dict[str, Any]:
    """Return what caps and cover cost their holders and paid them."""
    from settlement.ledger import Code

    found: dict[str, Any] = {}
    for role in ("insured", "covered", "writer"):
        of = [n for n, trader in world.traders.items() if trader.role == role]
        found[role] = {
            name: usd(sum(world.ledger[n, code] for n in of))
            for name, code in (
                ("premium_usd", Code.PREMIUM),
                ("caps_usd", Code.CAP_PAYMENT),
                ("cover_usd", Code.COVER_PAYMENT),
                ("compensation_usd", Code.COMPENSATION),
                ("usage_usd", Code.USAGE_HOLD),
            )
        }
    return found


def margin(world: Any) -> dict[str, Any]:
    """Return what was held against what was lost."""
    held = [line[1] for line in world.margins]
    paid = [line[3] for line in world.margins]
    beyond = world.exceeded
    return {
        "mean_usd": usd(round(statistics.mean(held))),
        "most_usd": usd(max(held)),
        "share_of_cash": round(statistics.mean(line[1] / line[2] for line in world.margins), 4),
        "variation_an_hour_mean_usd": usd(round(statistics.mean(paid))),
        "variation_an_hour_most_usd": usd(max(paid)),
        "account_hours_paying": world.payers,
        "account_hours_beyond_margin": len(beyond),
        "beyond_margin_roles": sorted({world.traders[n].role for n, _, _ in beyond}),
        "worst_over_margin": round(max((p / r for _, p, r in beyond if r), default=0), 2),
    }


def by_role(world: Any, ledger: Any) -> dict[str, dict[str, float]]:
    """Return what accounts of each role paid and got, by code, in USD."""
    from settlement.ledger import Code

    found: dict[str, dict[str, float]] = {}
    for (number, code), amount in sorted(ledger.items()):
        of = found.setdefault(world.traders[number].role, {})
        of[Code(code).name] = round(of.get(Code(code).name, 0) + amount / 1e6, 2)
    return found


def paths(world: Any, days: int) -> dict[str, list[float]]:
    """Return by day what the plots show."""
    from marketplace.contract import DAY

    starts = [world.start + day * DAY for day in range(days)]
    by_day: dict[int, list[int]] = {}
    for hour, price in world.index.items():
        by_day.setdefault(hour // DAY, []).append(price)
    margins: dict[int, list[tuple[int, int]]] = {}
    for at, held, _, paid in world.margins:
        margins.setdefault(at // DAY, []).append((held, paid))
    buyers: dict[str, list[float]] = {}
    for number, trader in sorted(world.traders.items()):
        if trader.role in ("hedger", "payer"):
            kind = trader.horizon.value.lower() if trader.role == "hedger" else "payer"
            if kind not in buyers:
                buyers[kind] = [_day_price(world, number, start) for start in starts]
    return {
        "listed": [round(world.data.listed(start - world.start), 1) for start in starts],
        "believed": [round(world.data.level(start - world.start), 1) for start in starts],
        "index": [round(statistics.mean(by_day.get(start // DAY, [0])), 1) for start in starts],
        "margin": [usd(round(statistics.mean(h for h, _ in margins[s // DAY]))) for s in starts],
        "variation": [usd(sum(p for _, p in margins[s // DAY])) for s in starts],
        **{f"price {kind}": prices for kind, prices in buyers.items()},
    }


def _day_price(world: Any, number: int, start: int) -> float:
    """Return what an account paid a token of a day, in ticks; 0 where it bought none."""
    from marketplace.contract import DAY, HOUR, MNTU_PER_LOT_HOUR

    spent = tokens = 0.0
    for hour in range(start, start + DAY, HOUR):
        lots, cost = world.entry.get((number, hour), (0, 0))
        _, more = world.usage.get((number, hour), (0, 0))
        spent += max(0, cost) * MNTU_PER_LOT_HOUR + more * world.index.get(hour, 0) * 1.1
        tokens += max(0, lots) * MNTU_PER_LOT_HOUR + more
    return round(spent / tokens, 1) if tokens else 0.0
