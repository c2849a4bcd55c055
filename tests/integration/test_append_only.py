"""What the database keeps as it was written: every table of facts refuses to be changed."""

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, transaction

pytestmark = pytest.mark.django_db

APPS = ("marketplace", "settlement", "exchange", "admission")
CHANGE = {
    "admission_certification": "is searched for, and then certified or refused",
    "admission_metercursor": "moves on",
    "admission_meteredrequest": "grows until its request has ended",
    "admission_outage": "ends",
    "admission_receiptwaiting": "is taken into the log",
    "exchange_auction": "is the present one",
    "exchange_head": "moves on",
    "exchange_order": "is filled",
    "exchange_surveillancealert": "is decided",
    "marketplace_apikey": "is revoked",
    "marketplace_cluster": "is certified and goes down",
    "marketplace_deposit": "is confirmed",
    "marketplace_grade": "has parameters",
    "marketplace_instrument": "trades",
    "marketplace_listing": "is closed",
    "marketplace_membership": "is given and taken",
    "marketplace_organization": "is verified",
    "marketplace_packagelisting": "is withdrawn",
    "marketplace_packagepurchase": "is sold or refused",
    "marketplace_packageslice": "is sold",
    "marketplace_purchasecommitment": "is bought for",
    "marketplace_resaleinstruction": "is stopped",
    "marketplace_user": "changes a password",
    "marketplace_withdrawal": "is decided",
    "settlement_deliveryday": "has its jobs planned",
    "settlement_deliveryhour": "has its jobs planned",
    "settlement_dispute": "is decided",
    "settlement_heartbeat": "beats",
    "settlement_indexoverride": "is confirmed",
    "settlement_job": "is done",
    "settlement_layerproposal": "is confirmed",
    "settlement_lease": "is renewed",
    "settlement_marginaccount": "is the present one",
    "settlement_package": "is delivered and resold",
    "settlement_position": "is the present one",
    "settlement_signingkey": "is rotated",
    "settlement_transferbid": "is taken or lost",
    "settlement_transferoffer": "ends",
}
"""Tables of what has states, and how a row of each comes to change."""
ENDS = {"exchange_snapshot", "exchange_bookdelta"}
"""Rows that are removed in time, and never changed before."""
ONE_THING_CHANGES = {
    "settlement_account": ["owner"],
    "settlement_chainhead": ["chain"],
    "settlement_entitlement": ["lots", "price_ticks", "escrow_micros", "organization_id"],
    "settlement_instruction": ["id", "number", "body"],
    "admission_coveroffer": ["cluster", "price_ticks", "lots"],
    "marketplace_idempotencyrecord": ["key", "fingerprint", "organization_id"],
}
"""Tables of facts with one thing that is added to them, and columns that stay."""


def tables() -> list[str]:
    """Return the tables of the four apps, without views and without who is in which group."""
    return sorted(
        model._meta.db_table
        for app in APPS
        for model in apps.get_app_config(app).get_models()
        if model._meta.managed
    )


def refuses(statement: str) -> bool:
    """Whether the database refuses a statement for being one against a fact."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    except DatabaseError as error:
        cause = error.__cause__
        return cause.sqlstate == "BL003" or "are never changed" in str(cause)
    return False


def test_every_table_of_facts_refuses_to_be_changed_removed_or_emptied() -> None:
    facts = sorted(set(tables()) - set(CHANGE))
    assert len(facts) >= 40, "most of what is stored are facts"
    changed = []
    for table in facts:
        columns = ONE_THING_CHANGES.get(table)
        with connection.cursor() as cursor:
            described = connection.introspection.get_table_description(cursor, table)
        for column in columns or [each.name for each in described]:
            if not refuses(f'UPDATE {table} SET "{column}" = "{column}"'):
                changed.append(f"{table}.{column}")
        if table not in ENDS and not refuses(f"DELETE FROM {table}"):
            changed.append(f"{table} can be removed from")
        if not refuses(f"TRUNCATE {table} CASCADE"):
            changed.append(f"{table} can be emptied")
    assert not changed, "a new table is either protected by a migration or named here"


def test_every_table_that_is_named_here_is_one() -> None:
    assert set(CHANGE) | ENDS | set(ONE_THING_CHANGES) <= set(tables())


def test_what_has_states_can_be_changed() -> None:
    # Or else the test above would pass where everything is forbidden.
    for table in sorted(CHANGE):
        with connection.cursor() as cursor:
            described = connection.introspection.get_table_description(cursor, table)
        name = described[-1].name
        assert not refuses(f'UPDATE {table} SET "{name}" = "{name}"'), table
