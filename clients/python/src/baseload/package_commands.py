"""What the commands about packages do; as in `baseload.commands`."""

import argparse
from collections.abc import Callable, Sequence
from datetime import date, datetime
from itertools import islice
from typing import Final

from baseload import models, terms
from baseload.client import Client
from baseload.output import Output, text

USES: Final = {
    "quote": "ID FROM TO [UNITS]",
    "buy": "ID FROM TO [UNITS]",
    "offer": "GRADE FROM TO LOTS[,LOTS...] PRICE",
    "withdraw": "ID",
    "bought": "",
    "sold": "",
    "resell": "BOUGHT_ID FROM_HOUR TO_HOUR LOTS[,LOTS...] PRICE",
    "slices": "",
    "take": "SLICE_ID",
}
"""What `package` may be told, and what each needs; days are written 2026-12-05."""
BOUGHT: Final = "id grade starts_at ends_at price remaining_lot_hours remaining_value".split()


def packages(client: Client, options: argparse.Namespace, output: Output) -> None:
    """List packages on offer."""
    listed = client.packages(grade=options.grade, provider=options.provider)
    found = list(islice(listed, options.limit))
    columns = "id provider_name grade from_date to_date list_price available state".split()
    output.rows(found, columns, empty="no package")


def package(client: Client, options: argparse.Namespace, output: Output) -> None:
    """Quote, buy, offer or sell on a package, or list what is held."""
    what: str = options.what
    run = _PACKAGE[what]
    try:
        run(client, list(options.rest), options, output)
    except (IndexError, KeyError):
        raise ValueError(f"package {what} {USES[what]}".strip()) from None


def _quote(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    output.fields(
        client.quote_package(rest[0], _day(rest[1]), _day(rest[2]), quantity=_units(rest))
    )


def _buy(client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output) -> None:
    _bought(
        client.buy_package(
            rest[0],
            _day(rest[1]),
            _day(rest[2]),
            quantity=_units(rest),
            idempotency_key=options.id or terms.new_id(),
        ),
        output,
    )


def _offer(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    discounts = dict(_discount(one) for one in options.discount)
    output.fields(
        client.offer_package(
            rest[0],
            _day(rest[1]),
            _day(rest[2]),
            _lots(rest[3]),
            rest[4],
            p1_lots=_lots(options.p1) if options.p1 else (),
            discounts=discounts,
            quantity=options.units,
            idempotency_key=options.id or terms.new_id(),
        )
    )


def _withdraw(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    output.fields(client.withdraw_package(rest[0]))


def _list_bought(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    output.rows(list(client.bought_packages()), BOUGHT, empty="no package")


def _list_sold(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    output.rows(list(client.sold_packages()), [*BOUGHT, "holder_name"], empty="no package")


def _resell(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    output.fields(
        client.resell_package(
            rest[0],
            _hour(rest[1]),
            _hour(rest[2]),
            _lots(rest[3]),
            rest[4],
            p1_lots=_lots(options.p1) if options.p1 else (),
            buyer=options.buyer,
            idempotency_key=options.id or terms.new_id(),
        )
    )


def _list_slices(
    client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output
) -> None:
    columns = "id holder_name grade starts_at ends_at lot_hours price total".split()
    output.rows(list(client.package_slices()), columns, empty="no slice")


def _take(client: Client, rest: Sequence[str], options: argparse.Namespace, output: Output) -> None:
    key = options.id or terms.new_id()
    _bought(client.buy_package_slice(rest[0], idempotency_key=key), output)


_PACKAGE: Final[dict[str, Callable[[Client, Sequence[str], argparse.Namespace, Output], None]]] = {
    "quote": _quote,
    "buy": _buy,
    "offer": _offer,
    "withdraw": _withdraw,
    "bought": _list_bought,
    "sold": _list_sold,
    "resell": _resell,
    "slices": _list_slices,
    "take": _take,
}


def _bought(found: models.BoughtPackage, output: Output) -> None:
    if output.is_json:
        output.json(found)
    else:
        output.line(
            f"{found.id}  {found.remaining_lot_hours} lot-hours of {found.grade} @ "
            f"{found.price:f}, {text(found.starts_at)} to {text(found.ends_at)}, "
            f"{found.remaining_value:f} in escrow"
        )


def _units(rest: Sequence[str]) -> int:
    return int(rest[3]) if len(rest) > 3 else 1


def _lots(given: str) -> list[int]:
    """:raises ValueError: when it is no number, or numbers with commas between them."""
    return [int(one) for one in given.split(",")]


def _discount(given: str) -> tuple[int, int]:
    """:raises ValueError: when it is not DAYS:PERCENT."""
    days, _, percent = given.partition(":")
    return int(days), int(percent)


def _day(given: str) -> date:
    """:raises ValueError: when it is no day."""
    return date.fromisoformat(given)


def _hour(given: str) -> datetime:
    """:raises ValueError: when it is no instant."""
    return datetime.fromisoformat(given)
