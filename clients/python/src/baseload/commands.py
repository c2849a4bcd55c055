"""What each command of the command line does: one call or a few, and what is shown of it.

A command is given the client, its options and where to write; it returns an exit status, or None
when all went well.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from baseload import errors, models, stream, terms
from baseload.client import Client
from baseload.output import Output, book_lines, order_line, text

Run = Callable[[Client, argparse.Namespace, Output], int | None]

PUBLIC_CHANNELS: Final = (
    "book", "trades", "ticker", "candles", "auction", "index", "transparency"
)  # fmt: skip
PRIVATE_CHANNELS: Final = ("orders", "fills", "account", "entitlements")
OF_ONE_INSTRUMENT: Final = frozenset({"book", "trades", "candles", "auction"})
CANCELS_PER_BATCH: Final = 100
REFUSED: Final = 1
EXPORTS: Final[dict[str, Callable[[Client, str], Iterable[Any]]]] = {
    "orders": lambda client, symbol: client.orders(instrument=symbol, page_size=1_000),
    "fills": lambda client, symbol: client.fills(instrument=symbol, page_size=1_000),
    "ledger": lambda client, symbol: client.ledger(),
    "settlements": lambda client, symbol: client.settlements(),
    "trades": lambda client, symbol: client.trades(symbol, page_size=1_000),
}

# The market


def markets(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List instruments."""
    state = "" if options.state == "all" else options.state
    found = list(client.instruments(grade=options.grade, product=options.product, state=state))
    columns = "symbol state best_bid best_ask last volume open_interest trading_ends_at".split()
    output.rows(found, columns, empty="no instrument")


def book(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show a book."""
    found = client.book(options.instrument, depth=options.depth)
    if output.is_json:
        output.json(found)
        return
    for line in book_lines(found.bids, found.asks):
        output.line(line)


def trades(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show the tape."""
    page_size = min(options.limit, 1_000)
    found = list(islice(client.trades(options.instrument, page_size=page_size), options.limit))
    output.rows(found, ["at", "side", "quantity", "price"], empty="no trade yet")


def candles(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show candles."""
    listed = client.candles(options.instrument, interval=options.interval)
    found = list(islice(listed, options.limit))
    output.rows(found, "starts_at open high low close volume trades".split(), empty="no trade yet")


def auction(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show an auction."""
    found = client.auction(options.instrument)
    output.fields(found)
    if found.last_auction is not None and not output.is_json:
        last = found.last_auction
        output.line(f"last: {last.quantity} @ {last.price:f} at {text(last.at)}")


def status(client: Client, options: argparse.Namespace, output: Output) -> int | None:
    """Show whether the exchange takes orders; refused where it does not."""
    found = client.status()
    output.fields(found)
    return None if found.state == "running" else REFUSED


def watch(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Follow channels until Ctrl-C, or for so many messages."""
    requests = client.requests
    messages = stream.watch(
        requests.url, _subscriptions(options), key=requests.key, signer=requests.signer
    )
    for watched in islice(messages, options.count):
        message = watched.message
        if output.is_json:
            output.json(message)
        elif watched.book is not None:
            kept = watched.book
            state = f"sequence {kept.sequence}" if kept.is_live else "waiting for what is missing"
            output.line(f"{kept.instrument}  {state}")
            for line in book_lines(kept.bids(options.depth), kept.asks(options.depth)):
                output.line(line)
        else:
            _show(message, output)


def _subscriptions(options: argparse.Namespace) -> list[stream.Subscription]:
    """Return what is to be watched.

    :raises ValueError: when a channel needs an instrument that is not given.
    """
    named: Sequence[str] = options.instrument
    channels = options.channel or (["book", "trades"] if named else ["ticker"])
    wanted: list[stream.Subscription] = []
    for channel in channels:
        if channel in PRIVATE_CHANNELS:
            wanted.append((channel, None))
        elif named:
            wanted += [(channel, symbol) for symbol in named]
        elif channel in OF_ONE_INSTRUMENT:
            raise ValueError(f"the channel {channel} needs an instrument")
        else:
            wanted.append((channel, None))
    return wanted


def _show(message: stream.Message, output: Output) -> None:
    """Write what a message says, a line for each thing."""
    found = message.value()
    for one in found if isinstance(found, tuple | list) else [found]:
        if isinstance(one, models.Order):
            said = order_line(one)
        elif isinstance(one, models.OwnFill):
            said = (
                f"{text(one.at)}  {one.side} {one.quantity} {one.instrument} @ {one.price:f}  "
                f"{one.liquidity}, fee {one.fee:f}"
            )
        elif isinstance(one, models.Trade):
            said = f"{text(one.at)}  {one.side} {one.quantity} @ {one.price:f}"
        elif isinstance(one, dict):
            said = _pairs(one)
        else:
            said = _pairs({name: getattr(one, name) for name in one.__struct_fields__})
        output.line(f"{message.channel}  {message.instrument or '-'}  {said}")


def _pairs(fields: dict[str, Any]) -> str:
    return "  ".join(f"{name} {text(value)}" for name, value in fields.items() if value is not None)


# Orders


def order(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Place an order, test one, or show one."""
    what, rest = options.what, list(options.rest)
    if what == "show":
        if len(rest) != 1:
            raise ValueError("order show ID")
        _order(client.order(rest[0]), output)
    elif what == "test":
        side = rest.pop(0)
        preview = client.test_order(_new_order(side, rest, options))
        output.fields(preview)
        if not output.is_json:
            for fill in preview.fills:
                output.line(f"would fill {fill.quantity} @ {fill.price:f}")
            if preview.impact is not None:
                output.fields(preview.impact)
    else:
        _order(client.place_order(_new_order(what, rest, options)), output)


def _new_order(side: str, rest: Sequence[str], options: argparse.Namespace) -> terms.NewOrder:
    """Return the order that the arguments describe.

    :raises ValueError: when they describe none.
    """
    if side not in ("buy", "sell") or not 2 <= len(rest) <= 3 or not rest[1].isdigit():
        raise ValueError("an order is: buy|sell INSTRUMENT LOTS [PRICE]")
    price = rest[2] if len(rest) == 3 else None
    type_default: terms.OrderType = "market" if price is None else "limit"
    if options.stop_price is not None:
        type_default = "stop" if price is None else "stop_limit"
    return terms.NewOrder(
        instrument=rest[0],
        side="buy" if side == "buy" else "sell",
        quantity=int(rest[1]),
        type=options.type or type_default,
        price=price,
        stop_price=options.stop_price,
        display_quantity=options.display_quantity,
        min_quantity=options.min_quantity,
        time_in_force=options.time_in_force,
        expires_at=options.expires_at,
        post_only=options.post_only,
        reduce_only=options.reduce_only,
        self_trade_prevention=options.self_trade_prevention,
        client_order_id=options.id or terms.new_id(),
    )


def _order(found: models.Order, output: Output) -> None:
    if output.is_json:
        output.json(found)
        return
    output.line(order_line(found))
    for fill in found.fills:
        where = f"{fill.instrument}  " if fill.instrument else ""
        output.line(
            f"  {where}{fill.quantity} @ {fill.price:f}  {fill.liquidity}, fee {fill.fee:f}"
        )


def orders(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List own orders."""
    chosen = "" if options.status == "all" else options.status
    listed = client.orders(instrument=options.instrument, side=options.side, status=chosen)
    found = list(islice(listed, options.limit))
    columns = (
        "id instrument side type price quantity filled_quantity status reason created_at".split()
    )
    output.rows(found, columns, empty="no order")


def cancel(client: Client, options: argparse.Namespace, output: Output) -> int | None:
    """Cancel the orders that are named, or all that match."""
    filters = {"instrument": options.instrument, "side": options.side, "grade": options.grade}
    if options.all or (not options.order and any(filters.values())):
        if options.order:
            raise ValueError("ids, or --all with filters, not both")
        gone = client.cancel_orders(**filters).results
        _canceled(list(gone), output)
        return None
    ids = list(options.order)
    if ids == ["-"]:
        ids = sys.stdin.read().split()
    if not ids:
        raise ValueError("which orders? ids, or --all, --instrument, --side, --grade")
    if len(ids) == 1:
        _canceled([client.cancel_order(ids[0])], output)
        return None
    done: list[models.Order] = []
    failed = 0
    progress = output.progress("canceling", len(ids))
    for start in range(0, len(ids), CANCELS_PER_BATCH):
        part = ids[start : start + CANCELS_PER_BATCH]
        outcomes = client.batch([terms.Cancel(id=one) for one in part])
        progress.advance(len(part))
        for wanted, outcome in zip(part, outcomes, strict=True):
            if isinstance(outcome, errors.ApiError):
                failed += 1
                output.note(f"baseload: {wanted}: {outcome}")
            else:
                done.append(outcome)
    progress.end()
    _canceled(done, output)
    return REFUSED if failed else None


def _canceled(gone: list[models.Order], output: Output) -> None:
    if output.is_json:
        output.json(gone)
        return
    for one in gone:
        output.line(order_line(one))
    output.note(f"{len(gone)} canceled")


def amend(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Change an order."""
    if options.price is None and options.quantity is None and options.stop_price is None:
        raise ValueError("what shall change? --price, --quantity, --stop-price")
    _order(
        client.amend_order(
            options.order,
            price=options.price,
            quantity=options.quantity,
            stop_price=options.stop_price,
        ),
        output,
    )


def strip(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Buy or sell a strip."""
    _order(
        client.place_strip(
            terms.NewStrip(
                grade=options.grade,
                side=options.side,
                starts_at=options.starts_at,
                ends_at=options.ends_at,
                price=options.price,
                quantity=options.quantity,
                min_share=options.min_share,
                alternatives=options.alternative,
                client_order_id=options.id or terms.new_id(),
            )
        ),
        output,
    )


def cancel_after(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Set the dead-man's switch."""
    output.fields(client.cancel_all_after(round(options.seconds * 1_000)))


# The account


def account(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show money and margin."""
    output.fields(client.account())


def positions(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List positions."""
    columns = "instrument quantity average_price mark_price cost".split()
    output.rows(list(client.positions()), columns, empty="no position")


def fills(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List own fills."""
    found = list(islice(client.fills(instrument=options.instrument), options.limit))
    columns = "at instrument side quantity price liquidity fee order_id".split()
    output.rows(found, columns, empty="no fill")


def entitlements(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List rights to capacity."""
    found = list(islice(client.entitlements(), options.limit))
    columns = "grade starts_at lots state delivered_ntu remaining_ntu owed_ntu".split()
    output.rows(found, columns, empty="no entitlement")


def index(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show the hourly index of a grade."""
    found = list(islice(client.index(options.grade), options.limit))
    output.rows(found, "hour price method version".split(), empty="no index yet")


def curve(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show the forward curve of a grade."""
    found = client.curve(options.grade)
    if output.is_json:
        output.json(found)
    else:
        columns = "instrument product starts_at ends_at price mark".split()
        output.rows(list(found.points), columns, empty="nothing is listed")


def margin(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show what positions and orders have behind them."""
    found = client.margin()
    output.fields(found)
    if not output.is_json:
        columns = "instrument quantity mark_price initial_margin".split()
        output.rows(list(found.positions), columns, empty="no position")


def deliveries(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List own deliveries."""
    found = list(islice(client.deliveries(), options.limit))
    columns = "id grade hour role lots price state available_ntu short_ntu refunded".split()
    output.rows(found, columns, empty="no delivery")


def insurance(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List what price caps and shortage cover paid."""
    found = list(islice(client.insurance(), options.limit))
    columns = "instrument hour interval quantity insured_ntu price amount".split()
    output.rows(found, columns, empty="no payment")


def month(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Show the statement of a month; without one, list the months."""
    if not options.month:
        output.rows(list(client.months()), ["month", "is_closed"], empty="no month")
        return
    found = client.month(options.month)
    if output.is_json:
        output.json(found)
        return
    for account in found.accounts:
        output.line(f"{account.account}: {account.opening:f} to {account.closing:f}")
        output.rows(list(account.movements), "code count received paid total".split(), empty="-")


def export(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Write a whole history, one JSON object a line."""
    if options.what == "trades" and not options.instrument:
        raise ValueError("export trades needs --instrument")
    progress = output.progress(f"exporting {options.what}")
    for one in EXPORTS[options.what](client, options.instrument):
        output.json(one)
        progress.advance()
    progress.end()
