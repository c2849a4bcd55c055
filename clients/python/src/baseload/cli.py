"""`baseload`: the exchange from a shell.

    baseload --demo var/demo.json markets
    baseload order buy LLAMA70B.H.20261205T14Z 40 1.250
    baseload watch LLAMA70B.H.20261205T14Z --json | jq .data

Where to and as whom: `--url` and `--key`, else BASELOAD_URL and BASELOAD_KEY, else a demo's
`--demo FILE`. Exit status: 0 done, 1 refused by the exchange, 2 wrong use, 3 no answer, 4 sent and
the outcome unknown, 130 interrupted. What the commands do is `baseload.commands`.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from baseload import __version__, commands, errors, package_commands, terms
from baseload.client import Client
from baseload.conversation import Policy
from baseload.output import Output
from baseload.signing import Signer

URL_DEFAULT = "http://127.0.0.1:8000"
ATTEMPTS_MAX = 5
"""A person at a shell would rather be told than wait."""
SECONDS_MAX = 3_600
DONE, REFUSED, USAGE, NO_ANSWER, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 4, 130


class WrongUse(Exception):
    """The command line does not say what is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to, and as whom."""

    url: str
    key: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = parser().parse_args(arguments)
    output = Output(is_json=options.json)
    try:
        place = place_of(options)
        signer = Signer.from_file(options.signing_key) if options.signing_key else None
        policy = Policy(attempts_max=ATTEMPTS_MAX, attempt_timeout_s=options.timeout)
        with Client(place.url, key=place.key, signer=signer, policy=policy) as client:
            status: int = options.run(client, options, output) or DONE
            return status
    except errors.ApiError as error:
        if output.is_json:
            output.note(json.dumps({"code": error.code, "detail": error.detail}))
        else:
            output.note(f"baseload: {error}")
        return REFUSED
    except errors.OutcomeUnknown as error:
        output.note(f"baseload: outcome_unknown: {error}")
        return UNKNOWN
    except errors.BaseloadError as error:
        output.note(f"baseload: {error}")
        return NO_ANSWER
    except (WrongUse, ValueError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read has read enough; nothing is to be flushed to nobody at the exit.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        output.note(f"baseload: {error}")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def place_of(options: argparse.Namespace) -> Place:
    """Return where to and as whom, from options, the environment and a demo's file.

    :raises WrongUse: when the file has no such organization.
    """
    url = options.url or ("" if options.demo else os.environ.get("BASELOAD_URL", ""))
    key = options.key or ("" if options.demo else os.environ.get("BASELOAD_KEY", ""))
    if options.demo:
        demo = json.loads(Path(options.demo).read_text())
        wanted = options.organization
        mine = [one for one in demo["organizations"] if wanted in (one["role"], one["name"])]
        if not mine:
            names = ", ".join(f"{one['name']} ({one['role']})" for one in demo["organizations"])
            raise WrongUse(f"{options.demo} has no organization {wanted}; it has {names}")
        url, key = url or demo["web"], key or mine[0]["key"]
    return Place(url=url or URL_DEFAULT, key=key)


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    common = _common(argparse.SUPPRESS)
    top = argparse.ArgumentParser(
        prog="baseload",
        description="Trade inference capacity from a shell.",
        parents=[_common(None)],
        epilog="Exit status: 0 done, 1 refused, 2 wrong use, 3 no answer, 4 outcome unknown.",
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    made = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    groups = _Commands(made, common)
    _market(groups)
    _orders(groups)
    _account(groups)
    _packages(groups)
    return top


class _Commands:
    """Adds commands that all have the common options."""

    def __init__(
        self,
        made: "argparse._SubParsersAction[argparse.ArgumentParser]",
        common: argparse.ArgumentParser,
    ) -> None:
        self._made = made
        self._common = common

    def add(self, name: str, run: commands.Run, about: str) -> argparse.ArgumentParser:
        """Add a command."""
        one = self._made.add_parser(name, help=about, description=about, parents=[self._common])
        one.set_defaults(run=run)
        return one


def _common(default: object) -> argparse.ArgumentParser:
    """Return the options that may stand before a command or behind it."""
    common = argparse.ArgumentParser(add_help=False)
    is_top = default is None
    common.add_argument("--url", default=default, help="the exchange's origin (BASELOAD_URL)")
    common.add_argument("--key", default=default, help="an API key (BASELOAD_KEY)")
    common.add_argument(
        "--signing-key", default=default, help="PEM file of a bound key", metavar="FILE"
    )
    common.add_argument("--demo", default=default, help="a demo's demo.json", metavar="FILE")
    common.add_argument(
        "--organization",
        default="buyer" if is_top else default,
        help="role or name of a demo's organization (buyer)",
    )
    common.add_argument(
        "--json", action="store_true", default=False if is_top else default, help="print JSON"
    )
    common.add_argument(
        "--timeout",
        type=seconds,
        default=10.0 if is_top else default,
        help="seconds to wait for one answer (10)",
    )
    return common


def _market(groups: _Commands) -> None:
    markets = groups.add("markets", commands.markets, "list instruments")
    markets.add_argument("--grade", default="")
    markets.add_argument("--product", default="")
    markets.add_argument("--state", default="live", help="a state, or live, or all (live)")
    book = groups.add("book", commands.book, "show a book")
    book.add_argument("instrument")
    book.add_argument("--depth", type=count, default=10)
    trades = groups.add("trades", commands.trades, "show the tape of an instrument")
    trades.add_argument("instrument")
    trades.add_argument("--limit", type=count, default=20)
    candles = groups.add("candles", commands.candles, "show candles")
    candles.add_argument("instrument")
    candles.add_argument("--interval", choices=get_args(terms.Interval), default="1h")
    candles.add_argument("--limit", type=count, default=24)
    index = groups.add("index", commands.index, "show the hourly index of a grade")
    index.add_argument("grade")
    index.add_argument("--limit", type=count, default=24)
    curve = groups.add("curve", commands.curve, "show the forward curve of a grade")
    curve.add_argument("grade")
    auction = groups.add("auction", commands.auction, "show the auction of an instrument")
    auction.add_argument("instrument")
    watch = groups.add("watch", commands.watch, "follow the market live until Ctrl-C")
    watch.add_argument("instrument", nargs="*", help="symbols; none for all of a channel")
    watch.add_argument(
        "--channel",
        action="append",
        choices=[*commands.PUBLIC_CHANNELS, *commands.PRIVATE_CHANNELS],
        help="may be repeated (book and trades of an instrument, else ticker)",
    )
    watch.add_argument("--depth", type=count, default=5, help="levels of a book that are shown")
    watch.add_argument("--count", type=count, help="end after so many messages")


def _orders(groups: _Commands) -> None:
    order = groups.add("order", commands.order, "place an order, or test one")
    order.add_argument("what", choices=["buy", "sell", "test", "show"])
    order.add_argument(
        "rest",
        nargs="+",
        metavar="ARGUMENT",
        help="INSTRUMENT LOTS [PRICE]; after test: buy or sell first; after show: an id",
    )
    order.add_argument("--type", choices=get_args(terms.OrderType), help="limit with a price")
    order.add_argument("--stop-price")
    order.add_argument("--display-quantity", type=count, metavar="LOTS", help="of an iceberg")
    order.add_argument("--min-quantity", type=count, metavar="LOTS")
    order.add_argument(
        "--time-in-force", "--tif", choices=get_args(terms.TimeInForce), default="gtc"
    )
    order.add_argument("--expires-at", type=moment, metavar="TIME", help="for gtd")
    order.add_argument("--post-only", action="store_true")
    order.add_argument("--reduce-only", action="store_true")
    order.add_argument(
        "--self-trade-prevention",
        "--stp",
        choices=get_args(terms.SelfTradePrevention),
        default="cancel_newest",
    )
    order.add_argument("--id", help="client order id: the same one is the same order")
    orders = groups.add("orders", commands.orders, "list own orders")
    orders.add_argument("--instrument", default="")
    orders.add_argument("--side", choices=["buy", "sell"], default="")
    orders.add_argument("--status", default="live", help="a status, or live, or all (live)")
    orders.add_argument("--limit", type=count, default=100)
    cancel = groups.add("cancel", commands.cancel, "cancel orders")
    cancel.add_argument("order", nargs="*", help="ids; - reads them from standard input")
    cancel.add_argument("--all", action="store_true", help="all that match the filters")
    cancel.add_argument("--instrument", default="")
    cancel.add_argument("--side", choices=["buy", "sell"], default="")
    cancel.add_argument("--grade", default="")
    amend = groups.add("amend", commands.amend, "change an order")
    amend.add_argument("order")
    amend.add_argument("--price")
    amend.add_argument("--quantity", type=count, help="the new total, what is filled included")
    amend.add_argument("--stop-price")
    strip = groups.add("strip", commands.strip, "buy or sell the same lots in a range of hours")
    strip.add_argument("side", choices=["buy", "sell"])
    strip.add_argument("grade")
    strip.add_argument("starts_at", type=moment, metavar="FROM", help="2026-12-05T14Z")
    strip.add_argument("ends_at", type=moment, metavar="TO")
    strip.add_argument("quantity", type=count, metavar="LOTS")
    strip.add_argument("price", metavar="PRICE", help="the limit on the average price")
    strip.add_argument("--min-share", type=int, default=100, help="least part of it, percent (100)")
    strip.add_argument("--alternative", action="append", default=[], metavar="GRADE")
    strip.add_argument("--id", help="client order id: the same one is the same order")
    after = groups.add("cancel-after", commands.cancel_after, "set the dead-man's switch")
    after.add_argument("seconds", type=float, help="0 turns it off")


def _account(groups: _Commands) -> None:
    groups.add("account", commands.account, "show money and margin")
    groups.add("positions", commands.positions, "list positions")
    fills = groups.add("fills", commands.fills, "list own fills")
    fills.add_argument("--instrument", default="")
    fills.add_argument("--limit", type=count, default=100)
    entitlements = groups.add("entitlements", commands.entitlements, "list rights to capacity")
    entitlements.add_argument("--limit", type=count, default=100)
    groups.add("margin", commands.margin, "show what positions have behind them")
    deliveries = groups.add("deliveries", commands.deliveries, "list own deliveries")
    deliveries.add_argument("--limit", type=count, default=100)
    insurance = groups.add("insurance", commands.insurance, "list what insurance paid")
    insurance.add_argument("--limit", type=count, default=100)
    month = groups.add("month", commands.month, "show a month's statement, or list them")
    month.add_argument("month", nargs="?", default="", help="2026-12")
    export = groups.add("export", commands.export, "write a whole history, one JSON object a line")
    export.add_argument("what", choices=list(commands.EXPORTS))
    export.add_argument("--instrument", default="", help="needed for trades")
    groups.add("status", commands.status, "show whether the exchange takes orders")


def _packages(groups: _Commands) -> None:
    packages = groups.add("packages", package_commands.packages, "list packages on offer")
    packages.add_argument("--grade", default="")
    packages.add_argument("--provider", default="", help="an organization's id: all it ever listed")
    packages.add_argument("--limit", type=count, default=100)
    uses = "; ".join(f"{what} {use}".strip() for what, use in package_commands.USES.items())
    package = groups.add(
        "package", package_commands.package, "quote, buy, offer or resell a package"
    )
    package.add_argument("what", choices=list(package_commands.USES))
    package.add_argument("rest", nargs="*", metavar="ARGUMENT", help=uses)
    package.add_argument("--units", type=count, default=1, help="of an offer (1)")
    package.add_argument("--p1", default="", metavar="LOTS", help="lots served as P1")
    package.add_argument(
        "--discount", action="append", default=[], metavar="DAYS:PERCENT", help="of an offer"
    )
    package.add_argument("--buyer", default="", help="who alone may buy a slice")
    package.add_argument("--id", help="idempotency key: the same one is the same request")


def moment(text: str) -> datetime:
    """Return an instant, `2026-12-05T14Z` or RFC 3339.

    :raises ArgumentTypeError: when it is none, or has no zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 2026-12-05T14:00Z") from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} needs its zone: 2026-12-05T14:00Z")
    return found.astimezone(UTC)


def count(text: str) -> int:
    """Return a whole number, 1 or more.

    :raises ArgumentTypeError: when it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Return a duration in seconds, above zero.

    :raises ArgumentTypeError: when it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no time from 0 to {SECONDS_MAX} seconds")
    return found


if __name__ == "__main__":
    sys.exit(main())
