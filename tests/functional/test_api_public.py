"""The public part of the API, and the form of everything."""

from tests.market import GRADE, HOUR
from tests.rest import Api, World


def test_the_time_is_the_markets(anyone: Api) -> None:
    reply = anyone.get("time")
    assert reply.status == 200
    assert reply.json["now"] == "2026-12-01T09:00:00.000000Z"
    assert reply.json["offset_ms"] == 0


def test_an_instrument_has_every_field_of_the_interface(anyone: Api) -> None:
    reply = anyone.get(f"instruments/{HOUR}")
    assert reply.status == 200
    assert reply.json == {
        "symbol": HOUR,
        "grade": GRADE,
        "product": "hour",
        "class": None,
        "strike": None,
        "pay_price": None,
        "starts_at": "2026-12-01T14:00:00.000000Z",
        "ends_at": "2026-12-01T15:00:00.000000Z",
        "trading_ends_at": "2026-12-01T13:55:00.000000Z",
        "state": "continuous",
        "tick": "0.001",
        "lot_ntu_per_minute": 1000,
        "reference_price": "1.250",
        "band": ["1.063", "1.437"],
        "last": None,
        "mark": reply.json["mark"],
        "best_bid": None,
        "best_ask": None,
        "volume": 0,
        "open_interest": 0,
    }


def test_instruments_are_paged_to_the_last_one(anyone: Api) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": 4, "grade": GRADE} | ({"cursor": cursor} if cursor else {})
        reply = anyone.get("instruments", **query)
        seen += [row["symbol"] for row in reply.json["results"]]
        cursor = reply.json["next_cursor"]
        if cursor is None:
            break
        assert len(reply.json["results"]) == 4
    assert len(seen) == len(set(seen)) == 64
    assert HOUR in seen


def test_instruments_are_filtered_by_the_length_of_their_window(anyone: Api) -> None:
    found = {
        product: anyone.get("instruments", product=product).json["results"]
        for product in ("hour", "day", "week", "month", "slot", "cap", "cover")
    }
    counts = {product: len(rows) for product, rows in found.items()}
    assert counts == {
        "hour": 14, "day": 30, "week": 8, "month": 12, "slot": 0, "cap": 0, "cover": 0
    }  # fmt: skip
    assert all(row["product"] == product for product, rows in found.items() for row in rows)
    january = found["month"][0]
    assert (january["symbol"], january["starts_at"], january["ends_at"]) == (
        "LLAMA70B.M.F27",
        "2027-01-01T00:00:00.000000Z",
        "2027-02-01T00:00:00.000000Z",
    )
    assert january["trading_ends_at"] == "2026-12-30T11:30:00.000000Z"
    assert (january["class"], january["strike"], january["tick"]) == (None, None, "0.001")


def test_a_limit_that_is_none_is_refused(anyone: Api) -> None:
    for limit in ("0", "-1", "1001", "1e3", "abc", "", "1_0", "１２", "+5"):
        reply = anyone.get("instruments", limit=limit)
        assert (reply.status, reply.blamed) == (400, [("limit", "out_of_range")]), limit


def test_a_cursor_is_good_for_its_own_list_only(anyone: Api) -> None:
    cursor = anyone.get("instruments", limit=1).json["next_cursor"]
    assert anyone.get("instruments", limit=1, cursor=cursor).status == 200
    forged = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    for given in (forged, "", "x", "😀", cursor + "AAAA"):
        reply = anyone.get("instruments", cursor=given)
        assert (reply.status, reply.blamed) == (400, [("cursor", "invalid_cursor")])
    other_list = anyone.get("instruments", grade=GRADE, cursor=cursor)
    assert (other_list.status, other_list.blamed) == (400, [("cursor", "invalid_cursor")])


def test_a_parameter_is_refused_by_name(anyone: Api) -> None:
    for path, query, blamed in (
        ("instruments", {"ordering": "organization__api_keys"}, ("ordering", "unknown_field")),
        ("instruments", {"state": "open"}, ("state", "invalid_value")),
        ("instruments", {"grade": "X" * 17}, ("grade", "invalid_length")),
        (f"instruments/{HOUR}/candles", {"interval": "2m"}, ("interval", "invalid_value")),
        (f"instruments/{HOUR}/book", {"depth": "0"}, ("depth", "invalid_number")),
        (f"index/{GRADE}/2026120514", {}, ("hour", "invalid_hour")),
        (f"index/{GRADE}/20261305T14Z", {}, ("hour", "invalid_hour")),
    ):
        reply = anyone.get(path, **query)
        assert (reply.status, reply.code, reply.blamed) == (400, "malformed", [blamed])


def test_a_parameter_that_is_sent_twice_is_refused(anyone: Api) -> None:
    reply = anyone.send("GET", "instruments?state=live&state=closed")
    assert (reply.status, reply.blamed) == (400, [("state", "duplicate_key")])


def test_what_does_not_exist_has_one_shape(anyone: Api) -> None:
    for path in (
        "nowhere",
        "instruments/",
        "instruments/NOPE.H.20261201T14Z",
        "instruments/NOPE/book",
        "instruments/NOPE/trades",
        "instruments/NOPE/candles",
        "curve/NOPE",
        "index/NOPE",
        f"index/{GRADE}/20301205T14Z",
        "pools/5/transparency",
        "pools/00000000-0000-4000-8000-000000000000/transparency",
        "clusters/%7B1%7D/x",
    ):
        reply = anyone.get(path)
        assert reply.status == 404, path
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json == {
            "type": "urn:baseload:problem:not_found",
            "title": "Not found",
            "status": 404,
            "detail": "Not found",
            "code": "not_found",
            "errors": [],
            "request_id": reply.headers["Request-Id"],
        }


def test_another_method_is_refused_with_those_that_exist(anyone: Api) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        reply = anyone.send(method, "time")
        assert (reply.status, reply.code) == (405, "method_not_allowed"), method
        assert reply.headers["Allow"] == "GET"


def test_method_overrides_and_forwarding_headers_have_no_effect(world: World) -> None:
    api = Api(headers={"X-HTTP-Method-Override": "DELETE", "X-Original-URL": "/admin/"})
    assert api.get("time").status == 200
    buyer = world.party("Northwind")
    buyer.api.headers = {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Host": "evil.example"}
    assert buyer.api.get("account").status == 200


def test_a_host_that_is_not_ours_is_refused(world: World) -> None:
    reply = Api(headers={"Host": "evil.example"}).get("time")

    assert (reply.status, reply.code) == (400, "malformed")
    assert reply.headers["Content-Type"] == "application/problem+json"


def test_a_nul_names_nothing_and_is_refused_wherever_it_stands(world: World) -> None:
    provider = world.party("Northwind")
    for path in ("instruments/%00", "index/%00", "curve/a%00", "orders/%00", "clusters/%00"):
        assert provider.api.get(path).status == 404, path
    for path, field in (
        ("instruments", "grade"),
        ("orders", "client_order_id"),
        ("fills", "instrument"),
    ):
        reply = provider.api.get(path, **{field: "A\0B"})
        assert (reply.status, reply.blamed) == (400, [(field, "invalid_text")]), path
    cluster = {"name": "one", "grade": "A\0B", "accelerator": "H100"}
    reply = provider.api.post("clusters", cluster)
    assert (reply.status, reply.blamed) == (400, [("grade", "invalid_text")])


def test_every_answer_names_the_request_and_the_limit(anyone: Api) -> None:
    first, second = anyone.get("time"), anyone.get("nowhere-else")
    assert first.headers["RateLimit-Limit"] == "250"
    assert first.headers["RateLimit-Remaining"] == "249"
    assert first.headers["RateLimit-Reset"] == "1"
    assert first.headers["Request-Id"] != second.headers["Request-Id"]
    assert first.headers["Cache-Control"] == "no-store"


def test_reads_are_limited_by_key_and_by_address(world: World, anyone: Api, monkeypatch) -> None:
    buyer, other = world.party("Northwind"), world.party("Contoso")
    monkeypatch.setattr("marketplace.clock.monotonic_ns", lambda: 10**18)
    monkeypatch.setattr("marketplace.keys.KeyRing.is_ready", lambda _: True)
    from marketplace import keys

    ring = keys.shared_ring()
    ring.refresh()
    statuses = [buyer.api.get("time").status for _ in range(251)]
    assert statuses == [200] * 250 + [429]
    refused = buyer.api.get("account")
    assert (refused.code, refused.headers["Retry-After"]) == ("rate_limited", "1")
    assert refused.headers["RateLimit-Remaining"] == "0"
    assert other.api.get("time").status == 200
    assert anyone.get("time").status == 200


def test_the_engines_state_is_public(world: World, anyone: Api) -> None:
    reply = anyone.get("status")
    assert reply.status == 200
    assert (reply.json["state"], reply.json["epoch"]) == ("running", 1)


def test_grades_say_what_is_delivered(anyone: Api) -> None:
    (grade,) = anyone.get("grades").json["results"]
    assert (grade["code"], grade["reference_price"]) == (GRADE, "1.250")
    assert grade["weights"] == {
        "version": 1,
        "input": "1.000",
        "cached": "0.100",
        "output": "4.000",
    }


def test_the_curve_goes_from_the_nearest_hour_on(anyone: Api) -> None:
    reply = anyone.get(f"curve/{GRADE}")
    starts = [point["starts_at"] for point in reply.json["points"]]
    assert starts == sorted(starts)
    assert {point["source"] for point in reply.json["points"]} <= {"reference", "mark"}
