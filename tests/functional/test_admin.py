"""The staff's pages: everything to be seen, what is recorded never to be changed."""

import pytest
from django.apps import apps
from django.contrib import admin
from django.test import Client

from exchange import models as exchange_models
from marketplace import backoffice, clock, models, operations
from tests.market import GRADE, HOUR
from tests.rest import World

APPS = ("admission", "exchange", "marketplace", "settlement")


@pytest.fixture
def staff(world: World) -> Client:
    user = models.User.objects.create_superuser(
        "staff@example.com", "correct horse battery", created_at=clock.now()
    )
    client = Client()
    client.force_login(user)
    return client


def test_every_table_has_its_page_and_every_page_opens(world: World, staff: Client) -> None:
    world.party("Acme", cash=10_000_000)
    tables = {model._meta.db_table for model in admin.site._registry}
    shown = {table.removesuffix("_shown") for table in tables}
    for app in APPS:
        for model in apps.get_app_config(app).get_models():
            assert model._meta.db_table.removesuffix("_shown") in shown, model
    for model in admin.site._registry:
        path = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        response = staff.get(path)
        assert response.status_code == 200, path
        row = model._default_manager.order_by("pk").first()
        if row is not None:
            detail = staff.get(f"{path}{admin.utils.quote(row.pk)}/change/")
            assert detail.status_code == 200, path


def test_nobody_changes_what_is_recorded_not_even_a_superuser(world: World, staff: Client) -> None:
    world.party("Acme", cash=10_000_000)
    recorded = [page for page in admin.site._registry.values() if is_read_only(page)]
    assert len(recorded) > 25
    for page in recorded:
        meta = page.model._meta
        path = f"/admin/{meta.app_label}/{meta.model_name}/"
        assert staff.get(f"{path}add/").status_code == 403, path
        assert staff.post(f"{path}add/", {}).status_code == 403, path
        row = page.model._default_manager.order_by("pk").first()
        if row is not None:
            own = f"{path}{admin.utils.quote(row.pk)}"
            assert staff.post(f"{own}/change/", {}).status_code == 403, path
            assert staff.post(f"{own}/delete/", {"post": "yes"}).status_code == 403, path


def is_read_only(page: admin.ModelAdmin) -> bool:
    return isinstance(page, backoffice.ReadOnly) and page.model is not models.Grade


def test_a_grade_is_edited_until_it_is_listed(world: World, staff: Client) -> None:
    page = admin.site._registry[models.Grade]
    grade = models.Grade.objects.get(pk=GRADE)

    assert staff.post(f"/admin/marketplace/grade/{GRADE}/change/", {}).status_code == 403
    grade.is_listed = False
    grade.save()
    assert staff.post(f"/admin/marketplace/grade/{GRADE}/change/", {}).status_code == 200
    assert isinstance(page, backoffice.ReadOnly)


def test_no_digest_of_a_key_is_shown(world: World, staff: Client) -> None:
    party = world.party("Acme")
    made = operations.create_key(organization_id=party.id, scopes=["read"])

    shown = staff.get(f"/admin/marketplace/apikey/{made.row.pk}/change/").content.decode()

    assert made.row.pk in shown
    assert made.text not in shown
    assert bytes(made.row.digest).hex() not in shown
    assert "igest" not in shown


def test_a_halt_asks_for_a_reason_and_is_kept_in_the_audit_trail(
    world: World, staff: Client
) -> None:
    row = models.Instrument.objects.get(symbol=HOUR)
    path = "/admin/marketplace/instrument/"
    given = {"action": "halt", "_selected_action": [str(row.pk)]}
    with world.running():
        asked = staff.post(path, given)
        staff.post(path, {**given, "reason": "no"})
        done = staff.post(path, {**given, "reason": "the feed is in doubt"}, follow=True)

    row.refresh_from_db()
    entry = models.AuditEntry.objects.get()
    assert "Reason, for the audit trail" in asked.content.decode()
    assert f"<li>{HOUR}<" in asked.content.decode()
    assert "done." in done.content.decode()
    assert row.state == "HALTED"
    assert (entry.actor, entry.action) == ("staff@example.com", "halt")
    assert (entry.target, entry.reason) == (f"instrument:{HOUR}", "the feed is in doubt")
    assert exchange_models.Head.objects.exists()


def test_the_whole_market_is_halted_and_resumed(world: World, staff: Client) -> None:
    row = models.Instrument.objects.get(symbol=HOUR)
    models.Deployment.objects.create(kind="demo", created_at=clock.now())
    path = "/admin/marketplace/deployment/"
    given = {"_selected_action": ["1"], "reason": "the exchange is being moved"}
    with world.running():
        staff.post(path, {**given, "action": "halt"})
        row.refresh_from_db()
        halted = row.state
        staff.post(path, {**given, "action": "resume"})

    row.refresh_from_db()
    entries = models.AuditEntry.objects.order_by("id").values_list("action", "target")
    assert (halted, row.state) == ("HALTED", "CALL")
    assert list(entries) == [("halt", "market"), ("resume", "market")]
