"""How orders come in: what goes together, what does not, and what a retry must say again."""

import msgspec
import pytest

from exchange import commands, intake
from marketplace import errors, http

HOUR = "LLAMA70B.H.20261205T14Z"
LIMIT = {"instrument": HOUR, "side": "buy", "quantity": 10, "price": "1.250"}
OF_TYPE = {
    "limit": LIMIT,
    "market": {**LIMIT, "type": "market", "price": None},
    "stop": {**LIMIT, "type": "stop", "price": None, "stop_price": "1.300"},
    "stop_limit": {**LIMIT, "type": "stop_limit", "stop_price": "1.300"},
}
STRIP = {
    "grade": "LLAMA70B",
    "side": "buy",
    "from": "2026-12-05T14:00:00Z",
    "to": "2026-12-06T14:00:00Z",
    "price": "1.250",
    "quantity": 10,
    "client_order_id": "s",
}


def decoded(kind: type, fields: dict):
    return http.decode(msgspec.json.encode(fields), msgspec.json.Decoder(kind))


def placed(**fields) -> commands.PlaceOrder:
    return intake.place_order(3, decoded(intake.OrderIn, {"client_order_id": "a", **fields}))


def blamed(caught: pytest.ExceptionInfo) -> list[tuple[str, str]]:
    return [(error.field, error.code) for error in caught.value.errors]


def test_a_plain_limit_order_has_no_terms_whatever_defaults_are_spelled_out() -> None:
    short = placed(**LIMIT)
    long = placed(
        **LIMIT,
        type="limit",
        time_in_force="gtc",
        post_only=False,
        reduce_only=False,
        stop_price=None,
        self_trade_prevention="cancel_newest",
    )
    assert short == long
    assert short.terms is None
    assert placed(**LIMIT, time_in_force="ioc").terms is None


def test_every_field_reaches_the_command() -> None:
    order = placed(
        **OF_TYPE["stop_limit"],
        display_quantity=3,
        min_quantity=2,
        time_in_force="gtd",
        expires_at="2026-12-05T10:00:00.5Z",
        reduce_only=True,
        self_trade_prevention="decrement",
    )
    assert (order.price, order.lots, order.time_in_force) == (1_250, 10, "GTD")
    assert order.terms == commands.Terms(
        type="STOP_LIMIT",
        stop_price=1_300,
        display_lots=3,
        min_lots=2,
        expires_at=1_796_464_800_500_000,
        reduce_only=True,
        prevention="DECREMENT",
    )
    assert placed(**LIMIT, post_only=True).terms == commands.Terms(post_only=True)


def test_a_market_order_is_immediate_whether_it_says_so_or_not() -> None:
    silent, spoken = placed(**OF_TYPE["market"]), placed(**OF_TYPE["market"], time_in_force="ioc")
    assert silent == spoken
    assert (silent.price, silent.time_in_force) == (0, "IOC")
    assert placed(**OF_TYPE["market"], time_in_force="fok").time_in_force == "FOK"


APART = [
    ("limit", {"price": None}, "price", "missing_field"),
    ("limit", {"stop_price": "1.300"}, "stop_price", "not_applicable"),
    ("market", {"price": "1.250"}, "price", "not_applicable"),
    ("market", {"stop_price": "1.250"}, "stop_price", "not_applicable"),
    ("market", {"time_in_force": "day"}, "time_in_force", "not_applicable"),
    ("market", {"time_in_force": "gtd"}, "time_in_force", "not_applicable"),
    ("market", {"post_only": True}, "post_only", "not_applicable"),
    ("market", {"display_quantity": 5}, "display_quantity", "not_applicable"),
    ("stop", {"price": "1.250"}, "price", "not_applicable"),
    ("stop", {"stop_price": None}, "stop_price", "missing_field"),
    ("stop", {"post_only": True}, "post_only", "not_applicable"),
    ("stop", {"display_quantity": 5}, "display_quantity", "not_applicable"),
    ("stop_limit", {"price": None}, "price", "missing_field"),
    ("stop_limit", {"stop_price": None}, "stop_price", "missing_field"),
    ("stop_limit", {"post_only": True}, "post_only", "not_applicable"),
    ("limit", {"time_in_force": "gtd"}, "expires_at", "missing_field"),
    ("limit", {"expires_at": "2026-12-05T10:00:00Z"}, "expires_at", "not_applicable"),
    ("limit", {"time_in_force": "ioc", "post_only": True}, "post_only", "not_applicable"),
    ("limit", {"time_in_force": "fok", "post_only": True}, "post_only", "not_applicable"),
    ("limit", {"post_only": True, "min_quantity": 1}, "min_quantity", "not_applicable"),
    ("limit", {"min_quantity": 11}, "min_quantity", "out_of_range"),
    ("limit", {"display_quantity": 10}, "display_quantity", "out_of_range"),
    (
        "limit",
        {"time_in_force": "ioc", "display_quantity": 5},
        "display_quantity",
        "not_applicable",
    ),
]


@pytest.mark.parametrize(("kind", "change", "field", "code"), APART)
def test_fields_that_do_not_go_together_are_refused_by_name(kind, change, field, code) -> None:
    with pytest.raises(errors.Malformed) as caught:
        placed(**{**OF_TYPE[kind], **change})
    assert blamed(caught) == [(field, code)]
    assert caught.value.code == "malformed"


BAD_LOTS = (True, "1_000", "１２", "٣", " 5 ", "5.0", 5.0, "+5", "5\n", -5, 0, 10**30, 2_000_000)


@pytest.mark.parametrize("value", BAD_LOTS, ids=repr)
@pytest.mark.parametrize("field", ["quantity", "display_quantity", "min_quantity"])
def test_lots_have_one_spelling_in_every_field(field: str, value: object) -> None:
    with pytest.raises(errors.Malformed) as caught:
        placed(**{**LIMIT, field: value})
    assert [name for name, _ in blamed(caught)] == [field]


BAD_PRICES = (
    1.25, 1250, True, "", "1_000", "１２", "-0", "-0.000", "+5", ".5", "5.", "1e11", "1.25",
    "1.2500", "NaN", "Infinity", " 1.250", "1.250\n", "0.000", "-1.250", "10000000.000", "9" * 999,
)  # fmt: skip


@pytest.mark.parametrize("value", BAD_PRICES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", ["price", "stop_price"])
def test_prices_have_one_spelling_in_every_field(field: str, value: object) -> None:
    with pytest.raises(errors.Malformed) as caught:
        placed(**{**OF_TYPE["stop_limit"], field: value})
    assert [name for name, _ in blamed(caught)] == [field]


@pytest.mark.parametrize("value", ["yes", "on", 1, 0, "t", "true", None, [], {}], ids=repr)
@pytest.mark.parametrize("field", ["post_only", "reduce_only"])
def test_flags_are_true_or_false(field: str, value: object) -> None:
    with pytest.raises(errors.Malformed) as caught:
        placed(**{**LIMIT, field: value})
    assert blamed(caught) == [(field, "wrong_type")]


@pytest.mark.parametrize(
    "value",
    ["2026-12-05", "2026-12-05T10:00:00", "2026-12-05T10:00:00+01:00", "2026-13-05T10:00:00Z",
     "2026-12-05 10:00:00Z", "2026-12-05T10:00:00.1234567Z", "2026-12-05T10:00:60Z", "", "0", 1],
)  # fmt: skip
def test_an_expiry_has_one_spelling(value: object) -> None:
    with pytest.raises(errors.Malformed) as caught:
        placed(**LIMIT, time_in_force="gtd", expires_at=value)
    assert [name for name, _ in blamed(caught)] == ["expires_at"]


def test_every_term_is_part_of_what_a_retry_must_repeat() -> None:
    wanted = [
        LIMIT,
        {**LIMIT, "price": "1.251"},
        {**LIMIT, "quantity": 11},
        {**LIMIT, "side": "sell"},
        {**LIMIT, "time_in_force": "ioc"},
        {**LIMIT, "time_in_force": "day"},
        {**LIMIT, "time_in_force": "gtd", "expires_at": "2026-12-05T10:00:00Z"},
        {**LIMIT, "time_in_force": "gtd", "expires_at": "2026-12-05T10:00:01Z"},
        {**LIMIT, "post_only": True},
        {**LIMIT, "reduce_only": True},
        {**LIMIT, "display_quantity": 5},
        {**LIMIT, "display_quantity": 6},
        {**LIMIT, "min_quantity": 5},
        {**LIMIT, "self_trade_prevention": "cancel_both"},
        OF_TYPE["market"],
        OF_TYPE["stop"],
        {**OF_TYPE["stop"], "stop_price": "1.301"},
        OF_TYPE["stop_limit"],
    ]
    assert len({placed(**fields).fingerprint for fields in wanted}) == len(wanted)


# Amendments, strips, switches


def test_an_amendment_names_what_is_to_be_another_and_is_like_no_other() -> None:
    given = decoded(intake.AmendIn, {"price": "1.251", "quantity": 7})
    first, second = (intake.amend_order(3, 9, given) for _ in range(2))
    assert (first.order, first.price, first.lots, first.stop_price) == (9, 1_251, 7, 0)
    assert first.nonce != second.nonce


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, []),
        ({"price": None}, []),
        ({"price": 1.25}, ["price"]),
        ({"quantity": 0}, ["quantity"]),
        ({"quantity": "7"}, ["quantity"]),
        ({"stop_price": "1"}, ["stop_price"]),
        ({"display_quantity": 5}, ["display_quantity"]),
        ({"side": "sell"}, ["side"]),
    ],
)
def test_an_amendment_without_a_valid_form_is_refused_by_name(body, fields) -> None:
    with pytest.raises(errors.Malformed) as caught:
        intake.amend_order(3, 9, decoded(intake.AmendIn, body))
    assert [name for name, _ in blamed(caught)] == fields


def test_a_strip_reaches_the_command_with_its_defaults() -> None:
    strip = intake.place_strip(3, decoded(intake.StripIn, STRIP))
    assert (strip.from_at, strip.to_at) == (1_796_479_200_000_000, 1_796_565_600_000_000)
    assert (strip.side, strip.price, strip.lots) == (1, 1_250, 10)
    assert (strip.min_share, strip.alternatives) == (100, ())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"from": "2026-12-05T14:30:00Z"}, "from"),
        ({"from": "20261205T14Z"}, "from"),
        ({"from": None}, "from"),
        ({"to": "2026-12-05T14:00:00Z"}, "to"),
        ({"to": "2026-12-05T13:00:00Z"}, "to"),
        ({"to": "2026-12-07T15:00:00Z"}, "to"),
        ({"min_share": 101}, "min_share"),
        ({"min_share": -1}, "min_share"),
        ({"min_share": 50.0}, "min_share"),
        ({"min_share": "50"}, "min_share"),
        ({"quantity": 0}, "quantity"),
        ({"price": "1"}, "price"),
        ({"price": None}, "price"),
        ({"grade": "llama"}, "grade"),
        ({"alternatives": ["LLAMA70B"]}, "alternatives"),
        ({"alternatives": ["SONNET", "SONNET"]}, "alternatives"),
        ({"alternatives": [f"G{number}" for number in range(9)]}, "alternatives"),
        ({"alternatives": "SONNET"}, "alternatives"),
        ({"alternatives": ["sonnet"]}, "alternatives[0]"),
        ({"instrument": HOUR}, "instrument"),
        ({"time_in_force": "gtc"}, "time_in_force"),
    ],
)
def test_a_strip_without_a_valid_form_is_refused_by_name(change, field) -> None:
    with pytest.raises(errors.Malformed) as caught:
        intake.place_strip(3, decoded(intake.StripIn, {**STRIP, **change}))
    assert [name for name, _ in blamed(caught)] == [field]


def test_every_term_of_a_strip_is_part_of_what_a_retry_must_repeat() -> None:
    changes = [
        {},
        {"side": "sell"},
        {"price": "1.251"},
        {"quantity": 11},
        {"from": "2026-12-05T15:00:00Z"},
        {"to": "2026-12-06T15:00:00Z"},
        {"min_share": 50},
        {"grade": "SONNET"},
        {"alternatives": ["SONNET"]},
        {"alternatives": ["SONNET", "GEMINI"]},
        {"alternatives": ["GEMINI", "SONNET"]},
    ]
    digests = {
        intake.place_strip(3, decoded(intake.StripIn, {**STRIP, **change})).fingerprint
        for change in changes
    }
    assert len(digests) == len(changes)


@pytest.mark.parametrize("value", [1, 999, -1, 86_400_001, 10**30, "1000", 1000.0, True, None])
def test_a_switch_has_a_time_within_its_limits(value: object) -> None:
    with pytest.raises(errors.Malformed) as caught:
        intake.set_switch(3, decoded(intake.SwitchIn, {"timeout_ms": value}))
    assert [name for name, _ in blamed(caught)] == ["timeout_ms"]


def test_a_switch_is_set_in_milliseconds_and_unset_by_zero() -> None:
    set_, unset = (
        intake.set_switch(3, decoded(intake.SwitchIn, {"timeout_ms": value}))
        for value in (1_000, 0)
    )
    assert (set_.timeout, unset.timeout) == (1_000_000, 0)
    assert set_.nonce != unset.nonce


def test_prices_have_the_decimals_of_their_instrument() -> None:
    slot = {**LIMIT, "instrument": "LLAMA70B.P0.20261205T14Z"}
    assert placed(**slot | {"price": "0.0050"}).price == 50
    with pytest.raises(errors.Malformed) as refused:
        placed(**slot)
    assert blamed(refused) == [("price", "invalid_price")]
    stop = placed(**slot | {"type": "stop", "price": None, "stop_price": "0.0060"})
    assert stop.terms.stop_price == 60


def test_an_amendment_says_with_which_decimals_its_prices_were_written() -> None:
    def amended(**fields) -> commands.AmendOrder:
        return intake.amend_order(3, 7, decoded(intake.AmendIn, fields))

    assert (amended(price="0.0050").price, amended(price="0.0050").decimals) == (50, 4)
    assert (amended(price="0.050").price, amended(price="0.050").decimals) == (50, 3)
    assert (amended(stop_price="0.0060").stop_price, amended(quantity=4).lots) == (60, 4)
    with pytest.raises(errors.Malformed) as refused:
        amended(price="0.0050", stop_price="0.050")
    assert blamed(refused) == [("stop_price", "invalid_price")]
