"""One delivered token, end to end: a cluster, a trade, a delivery hour, a bad interval, the books.

Run it beside `make run`, as `make walk` or, with the official `openai` client installed:

    python docs/examples/walkthrough.py var/demo.json

It uses nothing but the public interfaces and the demo's own endpoints (an organization with a key,
a clock that can be advanced, a cluster that can be made to fail). Each step prints what it saw and
stops with an error where that is not what the rulebook says.
"""

import itertools
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from openai import OpenAI

GRADE = "LLAMA70B"
LISTED_LOTS, BOUGHT_LOTS = 100, 40
CERTIFY_SECONDS_MAX = 120
INTERVAL = timedelta(minutes=5)
LAG = timedelta(seconds=61)
"""An interval is settled a minute after it has ended."""


class Unexpected(Exception):
    """A step did not end as it should."""


@dataclass(slots=True)
class Api:
    """A caller of the REST interface with one key."""

    web: str
    key: str = ""

    def get(self, path: str) -> Any:
        """Return the answer to a GET."""
        return self.send("GET", path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a POST; each carries an idempotency key of its own."""
        return self.send("POST", path, body or {})

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the decoded answer.

        :raises Unexpected: when it is a problem document.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            f"{self.web}/api/v1/{path}",
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise Unexpected(f"{method} {path}: {error.code} {error.read().decode()}") from None


@dataclass(slots=True)
class Walk:
    """The state of one walk; `run` takes every step."""

    demo: dict[str, Any]
    seen: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Take every step and return what was seen."""
        public = Api(self.demo["web"])
        operator = Api(public.web, self._key("operator"))
        tag = uuid.uuid4().hex[:6]
        provider = self._organization(public, f"Walkthrough Provider {tag}", "provider")
        startup = self._organization(public, f"Walkthrough Startup {tag}", "buyer")
        other = self._organization(public, f"Walkthrough Second Buyer {tag}", "buyer")
        for one in (provider, startup, other):
            one.post("deposits", {"amount": "500"})

        cluster = self._certified_cluster(provider)
        instrument = self._instrument(public)
        price = self._listing(provider, cluster, instrument)
        self._purchase(startup, instrument, price)
        self._second_buyer(other, instrument)
        self._gate_closure(operator, startup, instrument)
        self._delivery(operator, startup, instrument)
        self._bad_interval(operator, startup)
        self._books(startup, provider)
        return self.seen

    # The steps

    def _certified_cluster(self, provider: Api) -> str:
        cluster = provider.post(
            "clusters",
            {
                "name": "walkthrough",
                "grade": GRADE,
                "accelerator": "H100",
                "tensor_parallel": 4,
                "replicas": 1,
            },
        )
        begun = provider.post(f"clusters/{cluster['id']}/certify")
        path = f"clusters/{cluster['id']}/certifications/{begun['id']}"
        deadline = time.monotonic() + CERTIFY_SECONDS_MAX
        while (found := provider.get(path))["state"] in ("pending", "running"):
            print(f"  certifying: {found['progress']} %")
            if time.monotonic() > deadline:
                raise Unexpected("the certification did not end")
            time.sleep(0.5)
        self._expect(found["state"] == "certified" and found["lots"] >= LISTED_LOTS, found)
        self._say("certified", f"the cluster may sell {found['lots']} lots", found["lots"])
        return str(cluster["id"])

    def _instrument(self, public: Api) -> dict[str, Any]:
        now = _time(public.get("time")["now"])
        listed = public.get(f"instruments?grade={GRADE}&product=hour&state=continuous&limit=1000")
        soon = [
            one
            for one in listed["results"]
            if _time(one["trading_ends_at"]) - now > timedelta(minutes=10)
            and _is_calm(one)
            and _has_room(one)
        ]
        instrument: dict[str, Any] = min(soon, key=lambda one: one["starts_at"])
        self._say("instrument", f"trading {instrument['symbol']}", instrument["symbol"])
        return instrument

    def _listing(self, provider: Api, cluster: str, instrument: dict[str, Any]) -> str:
        """List lots one tick below the best ask, so that they are the next to be bought."""
        price = f"{(_ask(instrument) - 1) / 1000:.3f}"
        listing = provider.post(
            "listings",
            {
                "cluster": cluster,
                "instrument": instrument["symbol"],
                "price": price,
                "quantity": LISTED_LOTS,
            },
        )
        self._expect(listing["state"] == "open", listing)
        self._say("listing", f"{LISTED_LOTS} lots are listed at {price}", listing["id"])
        return price

    def _purchase(self, startup: Api, instrument: dict[str, Any], price: str) -> None:
        order = startup.post("orders", self._order(instrument, "buy", price, BOUGHT_LOTS))
        self._expect(order["status"] == "filled" and order["average_price"] == f"{price}000", order)
        (position,) = startup.get("positions")["results"]
        self._expect(position["quantity"] == BOUGHT_LOTS, position)
        self._say("purchase", f"the startup bought {BOUGHT_LOTS} lots at {price}", order)

    def _second_buyer(self, other: Api, instrument: dict[str, Any]) -> None:
        low = instrument["band"][0]
        order = other.post("orders", self._order(instrument, "buy", low, 5))
        self._expect(order["status"] == "open" and order["remaining_quantity"] == 5, order)
        canceled = other.send("DELETE", f"orders/{order['id']}")
        self._expect(canceled["status"] == "canceled", canceled)
        account = other.get("account")
        self._expect(account["available"] == account["cash"] == "500.000000", account)
        self._say("cancel", f"a second buyer's order rested at {low} and was canceled", None)

    def _gate_closure(self, operator: Api, startup: Api, instrument: dict[str, Any]) -> None:
        starts_at = _time(instrument["starts_at"])
        self._advance(operator, starts_at + timedelta(seconds=1))
        (entitlement,) = startup.get("entitlements")["results"]
        self._expect(entitlement["lots"] == BOUGHT_LOTS, entitlement)
        self._expect(entitlement["state"] == "active", entitlement)
        escrow = startup.get("account")["escrow"]
        self._expect(float(escrow) > 0, escrow)
        self._say(
            "entitlement",
            f"gate closure made an entitlement of {BOUGHT_LOTS} lots, {escrow} USD in escrow",
            entitlement,
        )

    def _delivery(self, operator: Api, startup: Api, instrument: dict[str, Any]) -> None:
        """Stream completions at the entitlement, and see their interval settled in full."""
        client = OpenAI(base_url=f"{self.demo['gateway']}/v1", api_key=startup.key, max_retries=0)
        metered = 0
        for number in range(3):
            raw = client.chat.completions.with_raw_response.create(
                model=GRADE,
                messages=[{"role": "user", "content": f"Tell me about baseload, part {number}."}],
                max_tokens=64,
                stream=True,
                stream_options={"include_usage": True},
            )
            self._expect(raw.headers["x-baseload-class-served"].lower() == "p2", raw.headers)
            usage = None
            text = []
            for chunk in raw.parse():
                usage = chunk.usage or usage
                text += [choice.delta.content or "" for choice in chunk.choices]
            self._expect(usage is not None and bool("".join(text)), usage)
            assert usage is not None, "expected above"
            metered += usage.prompt_tokens * 1_000 + usage.completion_tokens * 4_000
        starts_at = _time(instrument["starts_at"])
        self._advance(operator, starts_at + INTERVAL + LAG)
        settled = self._settlements(startup)  # one of each seller who delivers
        self._expect(bool(settled), settled)
        self._expect(all(one["refunded"] == "0.000000" for one in settled), settled)
        self._expect(all(float(one["released"]) > 0 for one in settled), settled)
        released = sum(Decimal(one["released"]) for one in settled)
        entitlement = startup.get("entitlements")["results"][0]
        self._expect(float(entitlement["delivered_ntu"]) * 1_000 == metered, entitlement, metered)
        self._say(
            "delivery",
            f"{metered / 1000:.3f} NTU streamed and metered; {released} USD released",
            settled,
        )
        self.seen["metered_mntu"] = metered

    def _bad_interval(self, operator: Api, startup: Api) -> None:
        """Break the clusters that serve the startup: it is refunded, and paid what it missed.

        Which ones these are was decided at gate closure, over all sellers (RULEBOOK 4.3).
        """
        clusters = startup.get("entitlements")["results"][0]["pools"]
        for cluster in clusters:
            operator.post("demo/faults", {"cluster": cluster, "available": 0.0})
        client = OpenAI(base_url=f"{self.demo['gateway']}/v1", api_key=startup.key, max_retries=0)
        try:
            client.chat.completions.create(
                model=GRADE,
                messages=[{"role": "user", "content": "Is anybody there?"}],
                extra_headers={"x-baseload-overflow": "reject"},
            )
        except Exception as error:  # noqa: BLE001 the client has a class for each status
            self._expect(getattr(error, "status_code", None) in (429, 503), repr(error))
        else:
            raise Unexpected("clusters that are down answered")
        now = _time(Api(self.demo["web"]).get("time")["now"])
        ends_at = now - timedelta(seconds=now.timestamp() % 300) + 2 * INTERVAL
        self._advance(operator, ends_at)
        for cluster in clusters:
            operator.post("demo/faults", {"cluster": cluster, "available": 1.0})
        self._advance(operator, ends_at + LAG)
        bad = [one for one in self._settlements(startup) if float(one["refunded"]) > 0]
        self._expect(bool(bad), self._settlements(startup))
        worst = max(bad, key=lambda one: float(one["refunded"]))
        self._say("refund", f"a bad interval refunded {worst['refunded']} USD", bad)

    def _books(self, startup: Api, provider: Api) -> None:
        """See both sides of it in both statements."""
        bought, sold = (self._statement_codes(one) for one in (startup, provider))
        self._expect({"escrow", "refund", "trading_fee"} <= bought.keys(), bought)
        self._expect({"release", "trading_fee"} <= sold.keys(), sold)
        self._say("statements", f"the buyer's: {bought}; the seller's: {sold}", [bought, sold])

    # What the steps are made of

    def _organization(self, public: Api, name: str, role: str) -> Api:
        made = public.post("demo/organizations", {"name": name, "role": role})
        return Api(public.web, made["key"])

    def _order(
        self, instrument: dict[str, Any], side: str, price: str, quantity: int
    ) -> dict[str, Any]:
        return {
            "instrument": instrument["symbol"],
            "side": side,
            "type": "limit",
            "price": price,
            "quantity": quantity,
            "time_in_force": "gtc",
            "client_order_id": str(uuid.uuid4()),
        }

    def _advance(self, operator: Api, to: datetime) -> None:
        operator.post("demo/clock", {"advance_to": to.strftime("%Y-%m-%dT%H:%M:%S.%fZ")})

    def _settlements(self, caller: Api) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = caller.get("settlements")["results"]
        return found

    def _statement_codes(self, caller: Api) -> dict[str, str]:
        """Return what the ledger moved, by code."""
        totals: dict[str, float] = {}
        for entry in self._pages(caller, "ledger"):
            totals[entry["code"]] = totals.get(entry["code"], 0.0) + float(entry["amount"])
        return {code: f"{amount:.6f}" for code, amount in sorted(totals.items())}

    def _pages(self, caller: Api, path: str) -> Iterator[dict[str, Any]]:
        cursor = ""
        for _ in itertools.repeat(None):
            page = caller.get(path + (f"?cursor={cursor}" if cursor else ""))
            yield from page["results"]
            if not page["next_cursor"]:
                return
            cursor = page["next_cursor"]

    def _key(self, role: str) -> str:
        return next(str(o["key"]) for o in self.demo["organizations"] if o["role"] == role)

    def _expect(self, holds: bool, *seen: Any) -> None:
        if not holds:
            raise Unexpected(f"not as expected: {seen}")

    def _say(self, step: str, what: str, seen: Any) -> None:
        print(f"{step}: {what}")
        self.seen[step] = seen


def _is_calm(instrument: dict[str, Any]) -> bool:
    """Whether its best ask can be bought without a volatility auction: 5 % from the last trade."""
    last, ask = instrument["last"], instrument["best_ask"]
    return not last or not ask or abs(_ticks(ask) - _ticks(last)) * 25 < _ticks(last)


def _has_room(instrument: dict[str, Any]) -> bool:
    """Whether lots can be offered below its best ask and above its best bid."""
    return _ask(instrument) - _ticks(instrument["best_bid"] or instrument["band"][0]) > 1


def _ask(instrument: dict[str, Any]) -> int:
    return _ticks(instrument["best_ask"] or instrument["band"][1])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _ticks(price: str) -> int:
    return int(price.replace(".", ""))


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json")
    try:
        Walk(json.loads(path.read_text())).run()
    except Unexpected as unexpected:
        sys.exit(f"walkthrough: {unexpected}")
    print("done: a token was sold, delivered, metered and paid")
