"""The pages as a browser without scripts sees them: read, filled in, sent, refused."""

import re
from datetime import UTC, datetime

from django.test import Client

from exchange import models as orders
from marketplace import models, operations, wire
from settlement import instructions
from settlement import models as settlement_models
from settlement import operations as settlement
from tests.market import HOUR
from tests.rest import World

PUBLIC = [
    "/",
    "/markets",
    f"/markets/{HOUR}",
    "/curve/LLAMA70B",
    "/index",
    "/packages",
    "/transparency",
    "/receipts",
    "/login",
    "/signup",
]
PRIVATE = [
    "/portfolio", "/portfolio/margin", "/portfolio/statements", "/portfolio/months",
    "/deliveries", "/entitlements",
    "/keys", "/sell", "/resale", "/purchases", "/transfers", "/sell/packages",
    "/portfolio/packages", "/sell/cover",
]  # fmt: skip
POSTS = [
    "/login",
    "/signup",
    "/logout",
    "/ticket",
    "/orders/cancel",
    "/orders/amend",
    "/orders/cancel-all",
    "/portfolio/deposit",
    "/deliveries/dispute",
    "/deliveries/withdraw",
    "/keys",
    "/keys/revoke",
    "/sell/register",
    "/sell/certify",
    "/sell/list",
    "/sell/withdraw",
    "/resale",
    "/resale/stop",
    "/purchases",
    "/purchases/leave",
    "/transfers",
    "/transfers/withdraw",
    "/packages/1/buy",
    "/packages/slices/buy",
    "/sell/packages",
    "/sell/packages/withdraw",
    "/sell/cover",
    "/sell/cover/withdraw",
    "/portfolio/packages/1",
    "/portfolio/packages/take-back",
    "/organization",
    "/operations/run-again",
    "/operations/give-up",
    "/operations/layer",
]
FORMS = (
    "/login", "/signup", "/keys", "/resale", "/purchases", "/transfers", "/sell/packages",
    "/portfolio/packages/1", "/sell/cover",
)  # fmt: skip
PASSWORD = "correct horse battery"


def member(world: World, name: str = "Acme", role: str = "BUYER", cash: int = 0) -> Client:
    """A browser whose user owns an organization that the machine knows."""
    email = f"{name.lower().replace(' ', '.')}@example.com"
    user = operations.sign_up(email=email, password=PASSWORD, organization_name=name, role=role)
    organization = user.memberships.get().organization
    if cash:
        settlement.instruct(
            id=f"test-deposit:{organization.pk}",
            command=instructions.Deposit(account=organization.pk, amount_micros=cash),
        )
    world.market.work()
    client = Client()
    client.force_login(user)
    return client


def text(response) -> str:
    return response.content.decode()


def ticket(**changes: str) -> dict[str, str]:
    values = {
        "instrument": HOUR,
        "side": "buy",
        "price": "1.250",
        "lots": "4",
        "time_in_force": "GTC",
        "client_order_id": "ticket-1",
    }
    return values | changes


def test_anyone_may_read_the_public_pages(world: World) -> None:
    for path in PUBLIC:
        response = Client().get(path)

        assert response.status_code == 200, path
        assert "no-store" not in response.headers.get("Cache-Control", "") or path in FORMS


def test_no_page_has_inline_script_or_style(world: World) -> None:
    client = member(world)
    for path in (*PUBLIC, *PRIVATE):
        response = client.get(path, follow=True)

        body = text(response)
        assert response.status_code == 200, path
        assert "unsafe" not in response["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in response["Content-Security-Policy"]
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", body), path
        for script in re.findall(r"<script[^>]*>", body):
            assert "src=" in script or 'type="application/json"' in script


def test_a_stranger_is_sent_to_log_in_and_then_back(world: World) -> None:
    for path in PRIVATE:
        response = Client().get(path)

        assert response.status_code == 302, path
        assert response["Location"] == "/login?next=" + path.replace("/", "%2F")


def test_private_pages_are_never_stored(world: World) -> None:
    client = member(world)
    for path in PRIVATE:
        response = client.get(path)

        assert response.status_code == 200, path
        assert "no-store" in response["Cache-Control"]


def test_no_form_is_taken_without_its_token(world: World) -> None:
    client = member(world, cash=10_000_000)
    guarded = Client(enforce_csrf_checks=True)
    guarded.cookies = client.cookies
    for path in POSTS:
        response = guarded.post(path, {"amount": "5"})

        assert response.status_code == 403, path
        assert "This form is no longer valid" in text(response)


def test_nothing_is_changed_by_a_link(world: World) -> None:
    client = member(world)
    for path in POSTS:
        if path not in FORMS:
            assert client.get(path).status_code == 405, path


def test_signing_up_makes_an_organization_and_a_new_session(world: World) -> None:
    client = Client()
    client.get("/signup")

    response = client.post(
        "/signup",
        {
            "organization": "Nordlicht AG",
            "role": "PROVIDER",
            "email": "Ada@Example.com",
            "password": PASSWORD,
        },
    )

    user = models.User.objects.get()
    assert (response.status_code, response["Location"]) == (302, "/portfolio")
    assert user.email == "ada@example.com"
    assert user.memberships.get().organization.name == "Nordlicht AG"
    assert "Nordlicht AG" in text(client.get("/portfolio"))


def test_a_sign_up_that_makes_no_sense_makes_nothing(world: World) -> None:
    given = {"organization": "Acme", "role": "BUYER", "email": "a@b.co", "password": PASSWORD}
    for field, value in (
        ("organization", "=cmd()"),
        ("organization", "Ac\u202eme"),
        ("organization", ""),
        ("email", "nobody"),
        ("password", "12345678"),
        ("role", "OPERATOR"),
    ):
        response = Client().post("/signup", given | {field: value})

        assert response.status_code == 422, (field, value)
        assert not models.User.objects.exists()
        assert not models.Organization.objects.exists()


def test_a_wrong_password_and_an_unknown_address_look_the_same(world: World) -> None:
    member(world)
    bodies = []
    for email in ("acme@example.com", "nobody@example.com"):
        response = Client().post("/login", {"email": email, "password": "wrong"})
        assert response.status_code == 401
        bodies.append(re.sub(r'value="[^"]*"|data-now="\d+"', "", text(response)))

    assert bodies[0] == bodies[1]


def test_logging_in_changes_the_session_and_never_leaves_the_site(world: World) -> None:
    member(world)
    client = Client()
    client.session.save()
    before = client.cookies["sessionid"].value if "sessionid" in client.cookies else ""

    response = client.post(
        "/login",
        {"email": "ACME@example.com", "password": PASSWORD, "next": "https://evil.example/"},
    )

    assert response["Location"] == "/portfolio"
    assert client.cookies["sessionid"].value != before


def test_an_order_is_placed_shown_and_canceled_without_scripts(world: World) -> None:
    client = member(world, cash=100_000_000)
    with world.running():
        placed = client.post("/ticket", ticket(), follow=True)
        order = re.search(r'name="order" value="(\d+)"', text(placed))
        assert order is not None
        canceled = client.post(
            "/orders/cancel", {"order": order[1], "next": f"/markets/{HOUR}"}, follow=True
        )

    assert "Order open: buy 4 lots at 1.250." in text(placed)
    assert "Order canceled: 4 lots at 1.250 withdrawn." in text(canceled)
    assert 'name="order"' not in text(canceled)


def test_a_ticket_that_is_sent_twice_is_one_order(world: World) -> None:
    client = member(world, cash=100_000_000)
    with world.running():
        answers = [
            client.post("/ticket", ticket(), headers={"Accept": "application/json"}).json()
            for _ in range(2)
        ]

    assert answers[0]["order"] == answers[1]["order"]
    assert answers[0]["next_client_order_id"] != "ticket-1"


def test_a_ticket_with_a_wrong_value_comes_back_and_places_nothing(world: World) -> None:
    client = member(world, cash=100_000_000)
    for field, value in (
        ("price", "1.2505"),
        ("price", "NaN"),
        ("price", "-1.250"),
        ("price", "１.250"),
        ("lots", "0"),
        ("lots", "1.5"),
        ("lots", "1e3"),
        ("lots", "1_0"),
        ("side", "both"),
        ("time_in_force", "FOREVER"),
    ):
        given = ticket(**{field: value})
        shown = client.post("/ticket", given)
        answered = client.post("/ticket", given, headers={"Accept": "application/json"})

        assert (shown.status_code, answered.status_code) == (422, 400), (field, value)
        assert not orders.Order.objects.exists()


def test_a_rule_that_refuses_is_told_with_its_reason(world: World) -> None:
    client = member(world)
    with world.running():
        shown = client.post("/ticket", ticket())
        answered = client.post(
            "/ticket",
            ticket(client_order_id="ticket-2"),
            headers={"Accept": "application/json"},
        )

    assert shown.status_code == 422
    assert "The order was refused: insufficient funds." in text(shown)
    assert answered.status_code == 422
    assert answered.json()["code"] == "insufficient_funds"


def test_the_cost_is_shown_before_anything_is_placed(world: World) -> None:
    client = member(world, cash=100_000_000)

    response = client.post("/ticket", ticket(intent="preview"))

    # 4 lots at 1,250 ticks of 60 micro-USD, and 20 bp of it.
    assert response.status_code == 200
    assert 'data-preview="notional">0.30<' in text(response)
    assert 'data-preview="fee">0.0006<' in text(response)
    assert 'data-preview="margin">0.3006<' in text(response)
    assert "No open orders." in text(response)


def test_windows_are_listed_by_length_and_priced_by_their_hours(world: World) -> None:
    markets = text(Client().get("/markets"))
    order = [markets.index(f"<summary>{name}s ") for name in ("Hour", "Day", "Week", "Month")]
    assert order == sorted(order)

    client = member(world, cash=1_000_000_000)
    page = text(client.get("/markets/LLAMA70B.M.F27"))
    assert "1 lot = 44,640,000 NTU over 744 hours" in page
    assert "becomes its days" in page
    shown = dict(re.findall(r'data-preview="([a-z-]+)">([^<]*)<', page))
    # 10 lots at 1.250: 60 micro-USD x 744 hours x 1,250 x 10, a tenth of it, and 20 bp.
    assert (shown["notional"], shown["fee"]) == ("558.00", "1.116")
    assert (shown["margin-label"], shown["margin"]) == ("Margin, 10 %, with fee", "56.916")
    assert shown["tokens"] == "446,400,000 NTU"


def test_a_preview_says_what_the_order_would_do_and_places_nothing(world: World) -> None:
    client = member(world, cash=100_000_000)
    with world.running():
        answered = client.post(
            "/ticket", ticket(intent="preview"), headers={"Accept": "application/json"}
        )
        refused = client.post(
            "/ticket",
            ticket(intent="preview", price="9.000"),
            headers={"Accept": "application/json"},
        )

    assert answered.json() == {
        "foreseen": "The order would be open. Fee $0.00, set aside $0.3006 more, $99.6994 left."
    }
    assert refused.json() == {"foreseen": "It would be refused: outside band."}
    assert not orders.Order.objects.exists()


def test_a_stop_waits_among_the_open_orders_until_it_is_canceled(world: World) -> None:
    client = member(world, cash=100_000_000)
    with world.running():
        placed = client.post(
            "/ticket",
            ticket(type="stop_limit", stop_price="1.260", price="1.270", time_in_force="DAY"),
            follow=True,
        )
        order = re.search(r'name="order" value="(\d+)"', text(placed))
        assert order is not None
        client.post("/orders/cancel", {"order": order[1]})

    assert "Order untriggered: buy 4 lots at 1.270, once 1.260 is reached." in text(placed)
    assert "1.270<small>stop 1.260</small>" in text(placed)
    row = orders.Order.objects.get()
    assert (row.type, row.time_in_force, row.status) == ("STOP_LIMIT", "DAY", "CANCELED")


def test_terms_that_do_not_go_together_are_said_beside_the_field(world: World) -> None:
    client = member(world, cash=100_000_000)
    with world.running():
        no_stop = client.post("/ticket", ticket(type="stop_limit"))
        market = client.post("/ticket", ticket(type="market"), follow=True)

    assert no_stop.status_code == 400
    assert 'aria-describedby="stop-error"' in text(no_stop)
    # The page sends every field when there are no scripts; a market order has no limit to send.
    assert "Order canceled (protection band): buy 4 lots." in text(market)


def test_an_order_is_amended_in_place(world: World) -> None:
    client = member(world, cash=100_000_000)
    with world.running():
        client.post("/ticket", ticket())
        order = orders.Order.objects.get()
        amended = client.post(
            "/orders/amend", {"order": order.pk, "lots": "3", "price": "1.2"}, follow=True
        )
        wrong = client.post(
            "/orders/amend",
            {"order": order.pk, "lots": "many"},
            headers={"Accept": "application/json"},
        )

    assert "Order amended: Order open: buy 3 lots at 1.200." in text(amended)
    order.refresh_from_db()
    assert (order.lots, order.price_ticks, order.status) == (3, 1_200, "OPEN")
    assert wrong.status_code == 400


def test_an_auction_shows_what_it_would_give(world: World, clock) -> None:
    clock.set("2026-12-01T10:30:00Z")
    world.market.work()
    tomorrow = "LLAMA70B.H.20261202T14Z"
    client = member(world, cash=100_000_000)
    with world.running():
        placed = client.post("/ticket", ticket(instrument=tomorrow), follow=True)

    assert "Order open: buy 4 lots at 1.250." in text(placed)
    assert 'data-auction="kind">opening<' in text(placed)
    assert 'data-countdown="2026-12-01T11:55:00.000000Z"' in text(placed)


def test_nobody_cancels_the_order_of_another(world: World) -> None:
    owner = member(world, cash=100_000_000)
    other = member(world, name="Other")
    with world.running():
        placed = owner.post("/ticket", ticket(), headers={"Accept": "application/json"}).json()
        answered = other.post("/orders/cancel", {"order": placed["order"]["id"]})

    assert answered.status_code == 404
    assert "1.250" in text(owner.get("/portfolio"))


def test_an_engine_that_is_down_is_said_at_once_and_the_order_is_not_placed(world: World) -> None:
    client = member(world, cash=100_000_000)
    world.market.client.delete("engine:main")

    response = client.post("/ticket", ticket(), headers={"Accept": "application/json"})

    assert response.status_code == 503


def test_a_deposit_sent_twice_is_credited_once(world: World) -> None:
    client = member(world)
    given = {"amount": "1000.50", "idempotency_key": "page-1"}
    with world.running():
        for _ in range(2):
            response = client.post("/portfolio/deposit", given, follow=True)

    assert "Deposited $1000.500000." in text(response)
    assert "1,000.50" in text(response)
    assert "2,001.00" not in text(response)
    assert models.Deposit.objects.count() == 1


def test_a_margin_call_says_what_lacks_until_when_and_what_to_do(world: World) -> None:
    client = member(world)
    assert "Margin call." not in text(client.get("/portfolio"))
    settlement_models.MarginAccount.objects.filter(organization_id__gt=0).update(
        cash_micros=7_250_000,
        initial_margin_micros=10_000_000,
        margin_call_due_at=datetime(2026, 12, 1, 12, 0, tzinfo=UTC),
    )
    page = text(client.get("/portfolio"))
    assert "You lack $2.75 of your initial margin." in page
    assert 'data-countdown="2026-12-01T12:00:00+00:00"' in page
    settlement_models.MarginAccount.objects.filter(organization_id__gt=0).update(
        uncovered=[
            {
                "grade": "LLAMA70B", "starts_at": 1_796_083_200_000_000,
                "ends_at": 1_796_090_400_000_000, "lots": 7, "price": 1_250,
                "prepaid_hours": 2, "margin": 1_522_500,
            }
        ]
    )  # fmt: skip
    statement = text(client.get("/portfolio/margin"))
    assert "You lack $2.75" in statement
    assert "1.522500" in statement
    assert "No position has margin behind it." in statement


def test_a_deposit_of_no_amount_is_refused(world: World) -> None:
    client = member(world)
    for amount in ("", "0", "-5", "1e3", "0.0000001", "1,000"):
        given = {"amount": amount, "idempotency_key": "page-1"}

        assert client.post("/portfolio/deposit", given).status_code == 422, amount
        assert not models.Deposit.objects.exists()


def test_a_statement_adds_up_and_its_csv_has_every_movement(world: World) -> None:
    client = member(world, cash=25_000_000)

    page = text(client.get("/portfolio/statements?day=2026-12-01"))
    rows = client.get("/portfolio/statements.csv?day=2026-12-01")

    assert page.count("25.000000") >= 2
    assert rows["Content-Type"] == "text/csv; charset=utf-8"
    assert "no-store" in rows["Cache-Control"]
    lines = text(rows).splitlines()
    assert lines[0].startswith("account,at,sequence")
    assert any(",deposit," in line and "25.000000" in line for line in lines)


def test_a_key_is_shown_once_and_gone_when_revoked(world: World) -> None:
    client = member(world)

    made = client.post(
        "/keys",
        {"name": "laptop", "scopes": ["read"], "default_class": "P2", "overflow": "SPILL"},
    )
    shown = re.search(r"bl_demo_([A-Za-z0-9]+)_[A-Za-z0-9_-]+", text(made))
    assert shown is not None
    listed = text(client.get("/keys"))
    assert shown[0] not in listed
    assert shown[1] in listed
    client.post("/keys/revoke", {"key": shown[1]})
    assert shown[1] not in text(client.get("/keys")).split("</ul>")[-1]


def test_a_viewer_reads_and_changes_nothing(world: World) -> None:
    client = member(world, cash=100_000_000)
    models.Membership.objects.update(role=models.Membership.Role.VIEWER)

    for path, values in (
        ("/ticket", ticket()),
        ("/portfolio/deposit", {"amount": "5", "idempotency_key": "page-1"}),
        ("/keys", {"scopes": ["read"], "default_class": "P2", "overflow": "SPILL"}),
    ):
        answered = client.post(path, values, headers={"Accept": "application/json"})
        assert answered.status_code == 403, path
    assert client.get("/portfolio").status_code == 200


def test_a_provider_registers_lists_and_withdraws(world: World) -> None:
    client = member(world, name="Borealis", role="PROVIDER", cash=100_000_000)
    organization = models.Organization.objects.get(name="Borealis")
    cluster = models.Cluster.objects.create(
        organization=organization,
        grade_id="LLAMA70B",
        name="hall one",
        accelerator="H100",
        replicas=4,
        endpoint="http://127.0.0.1:1/v1",
        state=models.Cluster.State.REGISTERED,
        created_at="2026-12-01T00:00Z",
    )
    world.market.certify(organization.pk, cluster.pk, 100)
    with world.running():
        listed = client.post(
            "/sell/list",
            {
                "cluster": str(cluster.public_id),
                "instrument": HOUR,
                "price": "1.3",
                "lots": "100",
                "idempotency_key": "page-1",
            },
            follow=True,
        )
        listing = models.Listing.objects.get()
        withdrawn = client.post("/sell/withdraw", {"listing": str(listing.pk)}, follow=True)

    assert f"Listed 100 lots of {HOUR} at 1.300." in text(listed)
    assert listing.price_ticks == wire.parse_price("1.300")
    assert "is withdrawn." in text(withdrawn)


def test_a_name_that_is_markup_is_shown_as_text(world: World) -> None:
    client = member(world)
    models.Organization.objects.update(name='<img src=x onerror="alert(1)">')

    body = text(client.get("/portfolio"))

    assert "<img" not in body
    assert "&lt;img src=x" in body


def test_a_member_of_two_organizations_acts_for_the_one_chosen(world: World) -> None:
    client = member(world)
    user = models.User.objects.get()
    second = operations.open_organization(name="Second", role="PROVIDER")
    models.Membership.objects.create(
        user=user, organization=second, role="OWNER", created_at="2026-12-01T00:00Z"
    )
    stranger = operations.open_organization(name="Third", role="BUYER")

    chosen = client.post("/organization", {"organization": str(second.pk)}, follow=True)
    refused = client.post("/organization", {"organization": str(stranger.pk)})

    assert "<summary>Second</summary>" in text(chosen)
    assert refused.status_code == 404


def test_what_does_not_exist_has_a_page_that_says_so(world: World) -> None:
    for path, status in (
        ("/nothing", 404),
        ("/markets/%00", 404),
        ("/markets/NOTHING", 404),
        ("/markets/LLAMA70B.H.20991201T14Z", 404),
        ("/index/LLAMA70B/20261201T14Z", 404),
        ("/index/LLAMA70B/x", 400),
    ):
        response = Client().get(path)

        assert response.status_code == status, path
        assert 'class="error-page"' in text(response)


def test_a_host_that_is_not_ours_is_refused(world: World) -> None:
    for path in ("/", "/markets", "/login"):
        response = Client().get(path, headers={"Host": "evil.example"})

        assert response.status_code == 400, path
        assert 'class="error-page"' in text(response)
        assert "evil.example" not in text(response)
