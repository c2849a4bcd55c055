"""The strict rules of every door: bodies, cursors, limits and problem documents."""

import asyncio
import json
import time
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace import codes, errors, http


class Order(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    price: str = ""
    side: Literal["buy", "sell"] = "buy"
    post_only: bool = False
    tags: Annotated[list[int], msgspec.Meta(max_length=3)] = []


ORDER = msgspec.json.Decoder(Order)
ANY = msgspec.json.Decoder()


def refusal(body: bytes, decoder: Any = ORDER) -> errors.Malformed:
    with pytest.raises(errors.Malformed) as refused:
        http.decode(body, decoder)
    return refused.value


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (b'{"quantity":true}', "quantity", "wrong_type"),
        (b'{"quantity":"1_000"}', "quantity", "wrong_type"),
        (b'{"quantity":"5"}', "quantity", "wrong_type"),
        (b'{"quantity":5.0}', "quantity", "wrong_type"),
        (b'{"quantity":5e0}', "quantity", "wrong_type"),
        (b'{"quantity":null}', "quantity", "wrong_type"),
        (b'{"quantity":0}', "quantity", "out_of_range"),
        (b'{"quantity":-5}', "quantity", "out_of_range"),
        (b'{"quantity":1000001}', "quantity", "out_of_range"),
        (b'{"quantity":' + b"9" * 30 + b"}", "quantity", "out_of_range"),
        (b'{"quantity":' + b"9" * 5_000 + b"}", "quantity", "out_of_range"),
        (b'{"quantity":NaN}', "quantity", "invalid_json"),
        (b'{"quantity":-Infinity}', "quantity", "invalid_json"),
        (b'{"quantity":05}', "quantity", "invalid_json"),
        (b'{"quantity":+5}', "quantity", "invalid_json"),
        (b'{"price":1.250}', "price", "wrong_type"),
        (b'{"price":"\\ud800"}', "price", "invalid_json"),
        (b'{"price":"\x01"}', "price", "invalid_json"),
        (b'{"price":"a\\u0000"}', "price", "invalid_text"),
        (b'{"side":"BUY"}', "side", "invalid_value"),
        (b'{"post_only":"yes"}', "post_only", "wrong_type"),
        (b'{"post_only":"on"}', "post_only", "wrong_type"),
        (b'{"post_only":1}', "post_only", "wrong_type"),
        (b'{"tags":[1,"2"]}', "tags[1]", "wrong_type"),
        (b'{"tags":[1,2,3,4]}', "tags", "invalid_length"),
        (b'{"price_limit":"1"}', "price_limit", "unknown_field"),
        (b'{"is_admin":true}', "is_admin", "unknown_field"),
        (b'{"quantity":1,"quantity":1000}', "quantity", "duplicate_key"),
        (b'{"quantity":1,"\\u0071uantity":1000}', "quantity", "duplicate_key"),
        (b'{"quantity" : 1 , "quantity"\n:\t2}', "quantity", "duplicate_key"),
    ],
)
def test_a_body_is_refused_naming_the_field(body: bytes, field: str, code: str) -> None:
    found = refusal(body)
    assert (found.status, found.code) == (400, "malformed")
    assert found.errors == (errors.FieldError(field=field, code=code),)
    assert code in codes.CODES


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"null", b"[]", b'"x"', b"{", b'{"quantity":1,}', b"{'quantity':1}", b"{} {}",
     b"\xef\xbb\xbf{}", b'{"price":"\xff"}', b'{"price":"\xed\xa0\x80"}', b'{"price":"\xc0\x80"}',
     b"\x00", b'{"quantity":1}//'],
)  # fmt: skip
def test_what_is_not_an_object_in_json_is_refused(body: bytes) -> None:
    assert refusal(body).code == "malformed"


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert http.decode(rb'{"price":"\\u0000"}', ORDER).price == r"\u0000"


def test_equal_keys_are_found_at_any_depth_and_only_in_one_object() -> None:
    found = refusal(b'{"a":[{"b":1},{"b":2,"c":{"d":1,"d":2}}]}', ANY)
    assert found.errors == (errors.FieldError(field="d", code="duplicate_key"),)
    assert http.decode(b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}', ANY)["a"] == {"a": {"a": 1}}


def test_a_colon_or_quote_inside_a_text_is_no_key() -> None:
    body = rb'{"price":"\"quantity\":1","side":"buy"}'
    assert http.decode(body, ORDER).price == '"quantity":1'
    assert http.decode(b'{"price":"a\\":","side":"buy"}', ORDER).price == 'a":'


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_whatever_is_valid_json_comes_through_unchanged(value: object) -> None:
    assert http.decode(json.dumps(value).encode(), ANY) == value
    assert http.decode(json.dumps(value, ensure_ascii=False).encode(), ANY) == value


@given(st.dictionaries(texts, st.integers(), min_size=1, max_size=5), st.data())
def test_a_repeated_key_is_refused_wherever_it_stands(
    value: dict[str, int], data: st.DataObject
) -> None:
    again = data.draw(st.sampled_from(sorted(value)))
    pairs = [*value.items(), (again, 7)]
    body = "{" + ",".join(f"{json.dumps(key)}:{number}" for key, number in pairs) + "}"
    assert refusal(body.encode(), msgspec.json.Decoder(dict[str, object])).errors[0].code == (
        "duplicate_key"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 33 + b"]" * 33,
        b'"' + b'\\"' * 500_000,
        b'{"a":' + b"1" * 5_000 + b"}",
        b'{"x":"' + b"y" * 1_000_000,
        b'{"x' + b'\\"x' * 300_000,
    ],
    ids=range(8),
)
def test_hostile_bodies_are_refused_quickly(body: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(errors.Malformed):
        http.decode(body, msgspec.json.Decoder(dict[str, int] | list[Any]))
    assert time.perf_counter() - began < 0.1


def test_32_levels_are_allowed_and_33_are_not() -> None:
    assert http.decode(b"[" * 32 + b"]" * 32, ANY)
    assert "32 levels" in refusal(b"[" * 33 + b"]" * 33, ANY).detail


def test_what_the_caller_sent_is_shown_back_short_and_plain() -> None:
    found = refusal(json.dumps({"<script>\u202e" + "x" * 500: 1}).encode())
    assert found.errors[0].field.isascii()
    assert len(found.errors[0].field) < 200


def test_a_body_beyond_the_limit_is_413() -> None:
    found = refusal(b" " * (http.BODY_BYTES_MAX + 1))
    assert (found.status, found.code) == (413, "too_large")


# Problem documents


def test_a_refusal_is_a_problem_document() -> None:
    refused = errors.Malformed("no", errors=[errors.FieldError(field="price", code="wrong_type")])
    status, headers, body = http.problem(refused, "req_1")
    assert status == 400
    assert dict(headers)[b"content-type"] == b"application/problem+json"
    assert json.loads(body) == {
        "type": "urn:baseload:problem:malformed",
        "title": "Malformed request",
        "status": 400,
        "detail": "no",
        "code": "malformed",
        "errors": [{"field": "price", "code": "wrong_type"}],
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    "refused", [errors.TooManyRequests(), errors.Unavailable(), errors.Unavailable(retry_after_s=7)]
)
def test_limits_and_outages_say_when_to_come_back(refused: errors.Refusal) -> None:
    _, headers, _ = http.problem(refused, "req_1")
    assert int(dict(headers)[b"retry-after"]) == (refused.retry_after_s or 1)


# Bodies of raw ASGI applications


def test_a_body_is_read_to_its_limit_and_no_further() -> None:
    sent = [
        {"type": "http.request", "body": b"x" * 6, "more_body": True},
        {"type": "http.request", "body": b"y" * 6, "more_body": True},
        {"type": "http.request", "body": b"never read"},
    ]

    async def receive() -> dict[str, Any]:
        return sent.pop(0)

    with pytest.raises(http.TooLarge):
        asyncio.run(http.read_body(receive, limit=10))
    assert len(sent) == 1


def test_a_caller_that_hangs_up_is_told_nothing() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(http.Disconnected):
        asyncio.run(http.read_body(receive))


def test_a_header_that_is_sent_twice_is_refused() -> None:
    scope = {"headers": [(b"idempotency-key", b"a"), (b"idempotency-key", b"b")]}
    with pytest.raises(errors.Malformed):
        http.header(scope, b"idempotency-key")
    assert http.header(scope, b"authorization") == ""


def test_a_signature_covers_the_path_as_it_was_sent() -> None:
    scope = {"path": "/a b", "raw_path": b"/a%20b", "query_string": b"x=%31"}
    assert http.target(scope) == "/a%20b?x=%31"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x7f", "schlüssel", "a\n", "\x00"])
def test_an_idempotency_key_is_printable_ascii(key: str) -> None:
    with pytest.raises(errors.Malformed):
        http.parse_idempotency_key(key)


def test_the_longest_idempotency_key_is_taken() -> None:
    assert http.parse_idempotency_key("~" * 255) == "~" * 255


def test_fields_that_run_together_have_other_fingerprints() -> None:
    assert http.fingerprint("A", "B|", b"C") != http.fingerprint("A", "B", b"|C")


# Lists


def test_a_cursor_comes_back_in_its_own_list_only() -> None:
    cursors = http.Cursors("a secret")
    cursor = cursors.encode("/trades#7", [17, "LLAMA70B", 2**62])
    assert cursors.decode("/trades#7", cursor) == [17, "LLAMA70B", 2**62]
    for listing, text, secret in (
        ("/trades#8", cursor, "a secret"),
        ("/orders#7", cursor, "a secret"),
        ("/trades#7", cursor, "another"),
        ("/trades#7", cursor[:-2], "a secret"),
        ("/trades#7", cursor + "AA", "a secret"),
        ("/trades#7", "x" * 600, "a secret"),
    ):
        with pytest.raises(errors.Malformed):
            http.Cursors(secret).decode(listing, text)


@given(st.text(max_size=60))
def test_no_made_up_cursor_is_taken(text: str) -> None:
    with pytest.raises(errors.Malformed):
        http.Cursors("a secret").decode("/trades", text)


# Limits

SECOND = 10**9


def test_a_bucket_lets_exactly_its_burst_through() -> None:
    limiter = http.RateLimiter(per_second=100, burst_s=5)
    allowed = [limiter.take("k", now_ns=SECOND) for _ in range(500)]
    assert [one.remaining for one in allowed[:2]] == [499, 498]
    assert allowed[-1].remaining == 0
    with pytest.raises(http.RateLimited) as refused:
        limiter.take("k", now_ns=SECOND)
    assert refused.value.retry_after_s == 1
    assert refused.value.allowance == http.Allowance(limit=500, remaining=0, reset_s=5)


def test_a_bucket_refills_by_one_request_at_a_time() -> None:
    limiter = http.RateLimiter(per_second=100, burst_s=5)
    limiter.take("k", count=500, now_ns=0)
    with pytest.raises(http.RateLimited):
        limiter.take("k", now_ns=SECOND // 100 - 1)
    assert limiter.take("k", now_ns=SECOND // 100).remaining == 0
    assert limiter.take("k", now_ns=60 * SECOND).remaining == 499


def test_keys_do_not_share_a_bucket() -> None:
    limiter = http.RateLimiter(per_second=1, burst_s=1)
    limiter.take("a", now_ns=0)
    assert limiter.take("b", now_ns=0).remaining == 0


def test_a_refused_batch_takes_nothing() -> None:
    limiter = http.RateLimiter(per_second=10, burst_s=1)
    with pytest.raises(http.RateLimited):
        limiter.take("k", count=11, now_ns=0)
    assert limiter.take("k", count=10, now_ns=0).remaining == 0


def hold_of(limiter: http.RateLimiter, key: str, now_ns: int) -> float:
    with pytest.raises(http.RateLimited) as refused:
        limiter.take(key, now_ns=now_ns)
    return refused.value.hold_s


def test_who_sends_on_through_refusals_is_held_and_nobody_else() -> None:
    limiter = http.RateLimiter(per_second=1, burst_s=1)
    for key in ("stuffs", "other"):
        limiter.take(key, now_ns=0)
    assert {hold_of(limiter, "stuffs", 0) for _ in range(http.REFUSALS_FREE)} == {0.0}
    assert {hold_of(limiter, "stuffs", 0) for _ in range(10)} == {http.HOLD_S}
    assert hold_of(limiter, "other", 0) == 0.0
    assert limiter.take("stuffs", now_ns=SECOND).remaining == 0


def test_a_few_refusals_a_second_are_never_held() -> None:
    limiter = http.RateLimiter(per_second=1, burst_s=1)
    step = SECOND // http.REFUSALS_PER_S
    for number in range(3 * http.REFUSALS_FREE):
        now = number * step
        if number % http.REFUSALS_PER_S == 0:
            limiter.take("k", now_ns=now)
        else:
            assert hold_of(limiter, "k", now) == 0.0


def test_forgotten_buckets_were_full_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.RateLimiter, "KEYS_MAX", 3)
    limiter = http.RateLimiter(per_second=1, burst_s=1)
    for number in range(5):
        limiter.take(f"old-{number}", now_ns=0)
    for number in range(4):
        limiter.take(f"new-{number}", now_ns=100 * SECOND)
    assert len(limiter._full_at) <= 4
    with pytest.raises(http.RateLimited):
        limiter.take("new-3", now_ns=100 * SECOND)
