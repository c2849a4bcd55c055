"""A database belongs to one kind of deployment, for ever."""

import pytest
from django.db import IntegrityError, transaction

from marketplace import models, operations

pytestmark = pytest.mark.django_db


def test_the_first_process_says_what_the_database_is_and_the_next_agree(settings) -> None:
    operations.claim_deployment()
    operations.claim_deployment()

    assert models.Deployment.objects.get().kind == "demo"


def test_a_process_of_the_other_kind_is_refused(settings) -> None:
    operations.claim_deployment()
    settings.DEPLOYMENT = "production"

    with pytest.raises(operations.WrongDeployment, match="belongs to a demo deployment"):
        operations.claim_deployment()


def test_nobody_changes_or_removes_it() -> None:
    operations.claim_deployment()

    for change in (
        lambda: models.Deployment.objects.update(kind="production"),
        lambda: models.Deployment.objects.all().delete(),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            change()
    assert models.Deployment.objects.get().kind == "demo"
