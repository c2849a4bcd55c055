"""What the clearing house shows over REST: money, positions, delivery, and the index.

Everything here is read; money is moved by `marketplace.api`, which writes the instruction. Prices
are printed with the tick's decimals, money with six, tokens as NTU with three; hours that are over
stay readable for ever.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal

from django.db.models import Q

from marketplace import clock, contract, models, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict
from settlement import cash, delivery, ledger, margin
from settlement import models as settlement_models
from settlement import queries as settlement_queries


class ShowAccount(Endpoint):
    """What the caller's organization owns and may use."""

    scope = "read"
    tag = "account"

    class Output(Answer):
        """Money, all of it with six decimals."""

        cash: str
        available: str
        order_margin: str
        initial_margin: str
        maintenance_margin: str
        withdrawable: str
        escrow: str
        debt: str
        sequence: int
        updated_at: str

    def handle(self, call: Call) -> Output:
        """Answer."""
        row = settlement_queries.account(call.organization)
        return self.Output(
            cash=wire.micros_text(row.cash_micros),
            available=wire.micros_text(row.available_micros),
            order_margin=wire.micros_text(row.order_margin_micros),
            initial_margin=wire.micros_text(row.initial_margin_micros),
            maintenance_margin=wire.micros_text(row.maintenance_margin_micros),
            withdrawable=wire.micros_text(row.withdrawable_micros),
            escrow=wire.micros_text(row.escrow_micros),
            debt=wire.micros_text(row.debt_micros),
            sequence=row.sequence,
            updated_at=wire.moment_text(row.updated_at),
        )


class ListPositions(Endpoint):
    """Net lots per instrument, flat ones left out; negative lots are owed."""

    scope = "read"
    tag = "account"

    class Item(Answer):
        """A position. `cost` is what its lots were bought for, less what they were sold for.

        What cascaded into it was bought at its parent's final mark. `gain` is what it is worth at
        its mark, less its cost; marks have paid `variation` of that, and the rest with the next.
        """

        instrument: str
        product: str
        quantity: int
        average_price: str | None
        mark_price: str | None
        cost: str
        gain: str | None
        variation: str
        initial_margin: str
        updated_at: str

    Output = Listed[Item]

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        rows = settlement_queries.positions(call.organization)
        if call.page.after is not None:
            rows = rows.filter(symbol__gt=str(call.page.after[0]))
        found = list(rows[: call.page.fetch])
        marks = _marks([row.symbol for row in found])

        def show(row: settlement_models.Position) -> ListPositions.Item:
            sign = 1 if row.net_lots > 0 else -1
            terms = _terms(row.symbol)
            mark = marks.get(row.symbol)
            gain = None
            if mark is not None:
                gain = wire.micros_text(terms.tick_micros * (mark * row.net_lots - row.cost_ticks))
            return self.Item(
                instrument=row.symbol,
                product=terms.product.lower(),
                quantity=row.net_lots,
                average_price=wire.average_price_text(
                    sign * row.cost_ticks, abs(row.net_lots), terms.price_decimals
                ),
                mark_price=wire.optional_price_text(mark, terms.price_decimals),
                cost=wire.micros_text(row.cost_ticks * terms.tick_micros),
                gain=gain,
                variation=wire.micros_text(row.received_ticks * terms.tick_micros),
                initial_margin=wire.micros_text(row.initial_margin_micros),
                updated_at=wire.moment_text(row.updated_at),
            )

        return call.page.page(found, show, position=lambda row: [row.symbol])


class ListLedger(Endpoint):
    """Transfers of the organization's cash, the newest first, with the balance after each."""

    scope = "read"
    tag = "account"

    class Query(Strict):
        """Which account, and from when to when."""

        account: Literal["cash", "escrow", "usage_hold"] = "cash"
        since: wire.TimeText | None = None
        until: wire.TimeText | None = None

    class Item(Answer):
        """A transfer as the account sees it; `amount` is signed."""

        sequence: int
        at: str
        code: str
        amount: str
        balance: str
        cause: str

    Output = Listed[Item]
    _KINDS: ClassVar[dict[str, ledger.Kind]] = {
        "cash": ledger.Kind.CASH,
        "escrow": ledger.Kind.ESCROW,
        "usage_hold": ledger.Kind.USAGE_HOLD,
    }

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        kind = self._KINDS[call.query.account]
        rows = cash.ledger_entries(
            call.organization,
            kind=kind,
            before=call.page.number(),
            since=_moment(call.query.since, "since"),
            until=_moment(call.query.until, "until"),
            limit=call.page.fetch,
        )
        return call.page.page(
            rows,
            lambda row: self.Item(
                sequence=row.sequence,
                at=wire.moment_text(row.at),
                code=ledger.Code(row.code).name.lower(),
                amount=wire.micros_text(row.amount_micros),
                balance=wire.micros_text(row.balance_micros),
                cause=row.cause,
            ),
            position=lambda row: [row.sequence],
        )


class ShowMargin(Endpoint):
    """What positions, deliveries, uncovered shorts and resting orders have behind them.

    `initial_margin` is the sum over the three lists, each with the numbers that it follows from,
    and `package_margin`: a twentieth of the price of what packages that were sold still have to
    deliver.
    """

    scope = "read"
    tag = "account"

    class Requirement(Answer):
        """The margin of one position: at its mark, with what it has lost since it was marked.

        A buyer has all of the price behind the prepaid hours and a tenth behind the others, a
        seller a twentieth behind every hour. `unpaid` is the cost of what the next mark will settle
        its value against; `tick_value` is that of one lot over the whole window.
        """

        instrument: str
        quantity: int
        hours: int
        prepaid_hours: int
        tick_value: str
        cost: str
        variation: str
        unpaid: str
        mark_price: str
        initial_margin: str

    class Delivery(Answer):
        """The margin behind an hour that is being delivered: a twentieth of its price."""

        grade: str
        starts_at: str
        lots: int
        price: str
        initial_margin: str

    class Uncovered(Answer):
        """What lots sold beyond all that covers them need, in every hour from one time to another.

        That is beyond the twentieth: to 20 % of the price, and to 150 % in prepaid hours.
        """

        grade: str
        starts_at: str
        ends_at: str
        lots: int
        price: str
        hours: int
        prepaid_hours: int
        initial_margin: str

    class MarginCall(Answer):
        """A margin call that runs, and how much cash meets it as the positions now are."""

        amount: str
        due_at: str

    class Output(Answer):
        """The account's totals, and what they come from.

        A margin call that runs is enforced at its `due_at` (and `margin_call_due_at`), unless cash
        has reached the initial margin by then: `amount` is what it lacks. `locked` are proceeds
        that cannot be withdrawn before their day is final, `default_fund` is the account's share of
        it.
        """

        cash: str
        available: str
        order_margin: str
        initial_margin: str
        maintenance_margin: str
        margin_call_due_at: str | None
        margin_call: "ShowMargin.MarginCall | None"
        locked: str
        default_fund: str
        package_margin: str
        positions: "list[ShowMargin.Requirement]"
        deliveries: "list[ShowMargin.Delivery]"
        uncovered: "list[ShowMargin.Uncovered]"

    def handle(self, call: Call) -> Output:
        """Answer."""
        row = settlement_queries.account(call.organization)
        positions = list(settlement_queries.margined_positions(call.organization))
        marks = _marks([position.symbol for position in positions])
        owed = [
            (one, delivery.delivery_margin(price=one.price_ticks, lots=one.lots))
            for one in settlement_queries.open_obligations(call.organization)
        ]
        others = sum(one.initial_margin_micros for one in positions) + sum(m for _, m in owed)
        others += sum(line["margin"] for line in row.uncovered)
        return self.Output(
            cash=wire.micros_text(row.cash_micros),
            available=wire.micros_text(row.available_micros),
            order_margin=wire.micros_text(row.order_margin_micros),
            initial_margin=wire.micros_text(row.initial_margin_micros),
            package_margin=wire.micros_text(row.initial_margin_micros - others),
            maintenance_margin=wire.micros_text(row.maintenance_margin_micros),
            margin_call_due_at=wire.optional_moment_text(row.margin_call_due_at),
            margin_call=self._call(row),
            locked=wire.micros_text(row.locked_micros),
            default_fund=wire.micros_text(row.fund_micros),
            positions=[self._position(one, marks.get(one.symbol, 0)) for one in positions],
            deliveries=[
                self.Delivery(
                    grade=one.grade,
                    starts_at=wire.moment_text(one.starts_at),
                    lots=one.lots,
                    price=wire.price_text(one.price_ticks),
                    initial_margin=wire.micros_text(needed),
                )
                for one, needed in owed
            ],
            uncovered=[self._uncovered(line) for line in row.uncovered],
        )

    def _call(self, row: settlement_models.MarginAccount) -> MarginCall | None:
        """Return the call that runs, if one does."""
        if row.margin_call_due_at is None:
            return None
        return self.MarginCall(
            amount=wire.micros_text(settlement_queries.lacking(row)),
            due_at=wire.moment_text(row.margin_call_due_at),
        )

    def _position(self, row: settlement_models.Position, mark: int) -> Requirement:
        """Return what a position has behind it."""
        terms = _terms(row.symbol)
        prepaid_until = contract.hour_start(clock.now_micros()) + margin.PREPAID_WINDOW
        return self.Requirement(
            instrument=row.symbol,
            quantity=row.net_lots,
            hours=terms.hours,
            prepaid_hours=margin.prepaid_hours(
                starts_at=terms.starts_at, ends_at=terms.ends_at, prepaid_until=prepaid_until
            ),
            tick_value=wire.micros_text(terms.tick_micros),
            cost=wire.micros_text(row.cost_ticks * terms.tick_micros),
            variation=wire.micros_text(row.received_ticks * terms.tick_micros),
            unpaid=wire.micros_text((row.cost_ticks + row.received_ticks) * terms.tick_micros),
            mark_price=wire.price_text(mark, terms.price_decimals),
            initial_margin=wire.micros_text(row.initial_margin_micros),
        )

    def _uncovered(self, line: dict[str, Any]) -> Uncovered:
        """Return one line of what nothing covers (`exchange.machine.coverage.Line`)."""
        return self.Uncovered(
            grade=line["grade"],
            starts_at=wire.time_text(line["starts_at"]),
            ends_at=wire.time_text(line["ends_at"]),
            lots=line["lots"],
            price=wire.price_text(line["price"]),
            hours=(line["ends_at"] - line["starts_at"]) // contract.HOUR,
            prepaid_hours=line["prepaid_hours"],
            initial_margin=wire.micros_text(line["margin"]),
        )


class ClassRates(Answer):
    """Lots by class; one lot is 1 kNTU a minute."""

    p0: int
    p1: int
    p2: int


class ListEntitlements(Endpoint):
    """Rights to use capacity, the latest hour first."""

    scope = "read"
    tag = "account"

    class Query(Strict):
        """Leave out hours that ended before `since`."""

        since: wire.TimeText | None = None

    class Item(Answer):
        """An entitlement; tokens are NTU with three decimals."""

        id: str
        grade: str
        starts_at: str
        ends_at: str
        lots: int
        class_rates: ClassRates
        pool: str | None
        pools: list[str]
        price: str
        escrow: str
        delivered_ntu: str
        remaining_ntu: str
        owed_ntu: str
        state: str

    Output = Listed[Item]

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        after = call.page.after
        rows = settlement_queries.entitlements(
            call.organization,
            now=clock.now(),
            since=_moment(call.query.since, "since"),
            before=None if after is None else (clock.to_datetime(int(after[0])), int(after[1])),
            limit=call.page.fetch,
        )
        pools = _pools({cluster for row in rows for cluster in row.clusters})

        def show(row: settlement_queries.EntitlementRow) -> ListEntitlements.Item:
            served_by = [pools[cluster] for cluster in row.clusters if cluster in pools]
            return self.Item(
                id=str(row.id),
                grade=row.grade,
                starts_at=wire.moment_text(row.starts_at),
                ends_at=wire.moment_text(row.ends_at),
                lots=row.lots,
                class_rates=ClassRates(p0=row.p0_lots, p1=row.p1_lots, p2=row.p2_lots),
                pool=served_by[0] if served_by else None,
                pools=served_by,
                price=wire.price_text(row.price_ticks),
                escrow=wire.micros_text(row.escrow_micros),
                delivered_ntu=wire.ntu_text(row.delivered_mntu),
                remaining_ntu=wire.ntu_text(row.remaining_mntu),
                owed_ntu=wire.ntu_text(row.owed_mntu),
                state=row.state,
            )

        return call.page.page(
            rows, show, position=lambda row: [clock.to_micros(row.starts_at), row.id]
        )


class ListSettlements(Endpoint):
    """Settled five-minute intervals in which the organization bought or sold, latest first."""

    scope = "read"
    tag = "account"

    class Item(Answer):
        """One interval of one allocation, seen from the caller's side."""

        id: str
        grade: str
        hour: str
        interval: int
        starts_at: str
        ends_at: str
        role: str
        lots: int
        pool: str | None
        price: str
        available_ntu: str
        short_ntu: str
        delivered_ntu: str
        released: str
        covered: str
        refunded: str
        compensated: str
        settled_at: str

    Output = Listed[Item]

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        rows: Any = settlement_queries.settlements(call.organization)
        if call.page.after is not None:
            rows = _behind(rows, call.page.after)
        found = list(rows[: call.page.fetch])
        pools = _pools({row.allocation.cluster for row in found})

        def show(row: Any) -> ListSettlements.Item:
            allocation = row.allocation
            hour = clock.to_micros(allocation.starts_at)
            begins = hour + (row.interval - 1) * contract.INTERVAL
            is_holder = allocation.holder == call.organization
            return self.Item(
                id=f"{allocation.pk}-{row.interval}",
                grade=allocation.grade,
                hour=wire.hour_text(hour),
                interval=row.interval,
                starts_at=wire.time_text(begins),
                ends_at=wire.time_text(begins + contract.INTERVAL),
                role="holder" if is_holder else "seller",
                lots=allocation.lots,
                pool=pools.get(allocation.cluster),
                price=wire.price_text(allocation.price_ticks),
                available_ntu=wire.ntu_text(row.available_mntu),
                short_ntu=wire.ntu_text(row.short_mntu),
                delivered_ntu=wire.ntu_text(row.delivered_mntu),
                released=wire.micros_text(row.released_micros),
                covered=wire.micros_text(row.covered_micros),
                refunded=wire.micros_text(row.refunded_micros),
                compensated=wire.micros_text(row.compensated_micros),
                settled_at=wire.moment_text(row.at),
            )

        return call.page.page(
            found,
            show,
            position=lambda row: [
                clock.to_micros(row.allocation.starts_at),
                row.interval,
                row.pk,
            ],
        )


class ListInsurance(Endpoint):
    """What price caps and shortage cover paid the organization, or it as writer, latest first.

    `interval` is null for the hour of a cap; `amount` is below zero of a writer.
    """

    scope = "read"
    tag = "account"

    class Item(Answer):
        """One payment."""

        id: str
        instrument: str
        hour: str
        interval: int | None
        quantity: int
        insured_ntu: str
        price: str
        amount: str
        paid_at: str

    Output = Listed[Item]

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        rows = settlement_queries.insurance_payments(call.organization)
        if call.page.after is not None:
            at, interval, number = (int(part) for part in call.page.after)
            hour = clock.to_datetime(at)
            rows = rows.filter(
                Q(hour_starts_at__lt=hour)
                | Q(hour_starts_at=hour, interval__lt=interval)
                | Q(hour_starts_at=hour, interval=interval, pk__lt=number)
            )
        found = list(rows[: call.page.fetch])

        def show(row: settlement_models.InsurancePayment) -> ListInsurance.Item:
            return self.Item(
                id=str(row.pk),
                instrument=row.symbol,
                hour=wire.hour_text(clock.to_micros(row.hour_starts_at)),
                interval=row.interval or None,
                quantity=row.lots,
                insured_ntu=wire.ntu_text(row.mntu),
                price=wire.price_text(row.price_ticks),
                amount=wire.micros_text(row.amount_micros),
                paid_at=wire.moment_text(row.at),
            )

        return call.page.page(
            found,
            show,
            position=lambda row: [clock.to_micros(row.hour_starts_at), row.interval, row.pk],
        )


def _moment(text: str | None, field: str) -> datetime | None:
    """Return the instant of a query parameter."""
    return None if text is None else clock.to_datetime(wire.parse_time(text, field))


def _behind(rows: Any, after: list[int | str]) -> Any:
    """Return the settlements behind (hour, interval, id), which are listed latest first."""
    return rows.extra(  # a row comparison, which the ORM cannot say
        where=[
            "(settlement_allocation.starts_at, settlement_intervalsettlement.interval,"
            " settlement_intervalsettlement.id) < (%s, %s, %s)"
        ],
        params=[clock.to_datetime(int(after[0])), int(after[1]), int(after[2])],
    )


def _terms(symbol: str) -> contract.Contract:
    """Return what a symbol of a row stands for."""
    terms = contract.parse_symbol(symbol)
    assert terms is not None, "positions are in listed contracts"
    return terms


def _marks(symbols: list[str]) -> dict[str, int]:
    """Return the price in ticks at which each instrument is valued now."""
    rows = models.Instrument.objects.filter(symbol__in=symbols).values_list(
        "symbol", "mark_price_ticks", "reference_price_ticks"
    )
    return {symbol: mark or reference for symbol, mark, reference in rows}


def _pools(clusters: set[int]) -> dict[int, str]:
    """Return the public ids of clusters."""
    rows = models.Cluster.objects.filter(pk__in=clusters).values_list("pk", "public_id")
    return {pk: str(public_id) for pk, public_id in rows}
