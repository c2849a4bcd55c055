"""The page of receipts as the server fills it in: with one's own, and with nobody else's."""

import json
import uuid

from django.test import Client

from admission import models as admission_models
from marketplace import clock, models
from tests.functional.test_pages import member
from tests.market import GRADE
from tests.rest import World


def receipt_of(name: str) -> admission_models.Receipt:
    owner = models.Organization.objects.get(name=name)
    return admission_models.Receipt.objects.create(
        id=uuid.uuid4(), hash=bytes(32), issuer="none", organization_id=owner.pk, grade=GRADE,
        cluster=0, class_requested="P1", sequence=1, interval_starts_at=clock.now(),
        public='{"outcome":"shed"}', private="{}", salt=bytes(32), signature=bytes(64),
    )  # fmt: skip


def test_one_s_own_receipt_is_looked_up_by_its_id_and_nobody_else_s(world: World) -> None:
    holder, stranger = member(world, "Acme"), member(world, "Initech")
    row = receipt_of("Acme")
    got = holder.get("/receipts", {"id": str(row.pk)})
    assert json.loads(got.context["document"])["public"] == {"outcome": "shed"}
    for client, wanted in (
        (stranger, str(row.pk)), (Client(), str(row.pk)), (holder, "x"), (holder, "' OR 1"),
    ):  # fmt: skip
        refused = client.get("/receipts", {"id": wanted})
        assert (refused.status_code, refused.context["document"]) == (200, "")
        assert refused.context["is_missing"]
