"""A member's money: balances, positions, orders, fills, ledger, deposits and statements."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from exchange import queries as exchange_queries
from marketplace import clock, contract, forms, models, operations, wire
from marketplace.views import instrument, once, shared
from settlement import cash, statements
from settlement import queries as settlement_queries
from settlement.ledger import Code

FILLS_SHOWN = 50
LEDGER_SHOWN = 50
ACCOUNT_NAMES = {"cash": "Cash", "escrow": "Escrow", "usage_hold": "Held for usage"}


@require_safe
@shared.member_page
def portfolio(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Everything the organization has and owes."""
    return _portfolio(request, member)


def _portfolio(
    request: HttpRequest, member: shared.Member, *, amount: str = "", error: str = ""
) -> HttpResponse:
    organization = member.organization.pk
    account = settlement_queries.account(organization)
    values = {
        "account": account,
        "lacking": settlement_queries.lacking(account),
        "positions": _positions(organization),
        "orders": instrument.own_orders(organization),
        "fills": [
            {
                "at": clock.to_datetime(wire.parse_time(fill.at, "at")),
                "symbol": fill.instrument,
                "side": fill.side,
                "price": wire.parse_price(
                    fill.price, decimals=contract.decimals_of(fill.instrument)
                ),
                "lots": fill.quantity,
                "liquidity": fill.liquidity,
                "fee": _micros(fill.fee),
            }
            for fill in exchange_queries.fills(organization=organization, limit=FILLS_SHOWN)
        ],
        "ledger": [
            {
                "at": entry.at,
                "code": Code(entry.code).name,
                "cause": entry.cause,
                "amount": entry.amount_micros,
                "balance": entry.balance_micros,
            }
            for entry in cash.ledger_entries(organization, limit=LEDGER_SHOWN)
        ],
        "deposit_id": shared.fresh_id("page"),
        "deposit_amount": amount,
        "deposit_error": error,
    }
    return shared.page(request, "marketplace/portfolio.html", values, status=422 if error else 200)


def _micros(text: str) -> int:
    """Return micro-USD of our own six decimals."""
    return int(text.replace(".", ""))


def _positions(organization: int) -> list[dict[str, Any]]:
    rows = list(settlement_queries.positions(organization))
    marks = dict(
        models.Instrument.objects.filter(symbol__in=[row.symbol for row in rows]).values_list(
            "symbol", "mark_price_ticks"
        )
    )
    positions = []
    for row in rows:
        mark = marks.get(row.symbol)
        terms = contract.parse_symbol(row.symbol)
        assert terms is not None, "positions are in listed contracts"
        gain = None
        if mark is not None:
            gain = terms.tick_micros * (mark * row.net_lots - row.cost_ticks)
        positions.append(
            {
                "symbol": row.symbol,
                "net_lots": row.net_lots,
                "average": wire.average_price_text(
                    abs(row.cost_ticks), abs(row.net_lots), terms.price_decimals
                ),
                "mark": mark,
                "gain": gain,
                "paid": terms.tick_micros * row.received_ticks,
                "margin": row.initial_margin_micros,
            }
        )
    return positions


@require_POST
@shared.member_page
def deposit(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Note a deposit; a demonstration credits it at once."""
    member.require("transfer")
    form = forms.Deposit(request.POST)
    if not form.is_valid():
        error = " ".join(map(str, form.errors.get("amount", ["Load the page again."])))
        return _portfolio(request, member, amount=request.POST.get("amount", ""), error=error)
    amount: int = form.cleaned_data["amount"]
    request_ = once.PageRequest(
        organization=member.organization.pk,
        idempotency_key=form.cleaned_data["idempotency_key"],
        what="deposit",
        terms=str(amount),
    )
    reference = once.perform(
        request_,
        lambda: str(
            operations.request_deposit(
                organization_id=member.organization.pk,
                amount_micros=amount,
                key=request_.idempotency_key,
            ).pk
        ),
    )
    made = operations.finish_deposit(models.Deposit.objects.get(pk=int(reference)))
    shown = wire.micros_text(amount)
    if made.state == models.Deposit.State.POSTED:
        messages.success(request, f"Deposited ${shown}.")
    elif made.state == models.Deposit.State.PENDING:
        messages.success(request, f"Noted. ${shown} is credited when an operator confirms it.")
    else:
        messages.error(request, f"The deposit of ${shown} was refused.")
    return redirect("/portfolio")


# Statements


@require_safe
@shared.member_page
def statement(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """One day's statement."""
    day = _day(request)
    found = _statement(member, day)
    accounts = [
        {
            "name": ACCOUNT_NAMES[part.account],
            "opening": part.opening_micros,
            "closing": part.closing_micros,
            "change": part.closing_micros - part.opening_micros,
            "groups": part.groups,
        }
        for part in found.accounts
        if part.groups or part.opening_micros or part.account == "cash"
    ]
    values = {"day": day, "accounts": accounts, "intervals": found.intervals}
    return shared.page(request, "marketplace/statement.html", values)


@require_safe
@shared.member_page
def statement_csv(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """One day's statement, every movement a line."""
    day = _day(request)
    name = f"baseload-{member.organization.pk}-{day.isoformat()}.csv"
    return HttpResponse(
        statements.to_csv(_statement(member, day)),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )


def _statement(member: shared.Member, day: date) -> statements.Statement:
    since = datetime.combine(day, time(), tzinfo=UTC)
    return statements.statement(
        member.organization.pk,
        since=since,
        until=since + timedelta(days=1),
        trade_symbols=exchange_queries.trade_symbols,
    )


def _day(request: HttpRequest) -> date:
    """Return the day asked for, else today."""
    try:
        return datetime.strptime(request.GET.get("day", ""), "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        return clock.now().date()
