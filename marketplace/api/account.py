"""Money in and out, and the keys of an organization."""

import base64
import binascii
from typing import Annotated, Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings

from marketplace import errors, idempotency, keys, models, operations, queries, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict

Money = wire.MoneyText


class Movement(Answer):
    """A deposit or withdrawal; `state` is pending, posted or, where the rules said no, refused.

    A withdrawal may also be held, until it is posted or voided.
    """

    id: str
    amount: str
    state: str
    created_at: str


class RequestDeposit(Endpoint):
    """Deposit money. A demo posts it at once; elsewhere it is pending until an operator confirms.

    The status is 201 when it is posted and 202 while it is pending.
    """

    method = "POST"
    scope = "transfer"
    status = 201
    pending_status = 202
    tag = "account"
    is_idempotent = True
    Output = Movement

    class Input(Strict):
        """How much."""

        amount: Money

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        amount_micros = wire.parse_money(given.amount)

        def effect() -> str:
            deposit = operations.request_deposit(
                organization_id=call.organization,
                amount_micros=amount_micros,
                key=call.idempotency_key,
            )
            return str(deposit.pk)

        def finish(reference: str) -> tuple[int, Movement]:
            deposit = operations.finish_deposit(models.Deposit.objects.get(pk=int(reference)))
            if deposit.state == models.Deposit.State.REFUSED:
                operations.accepted(deposit.instruction)
            status = 201 if deposit.state == models.Deposit.State.POSTED else 202
            return status, Movement(
                id=str(deposit.pk),
                amount=wire.micros_text(deposit.amount_micros),
                state=deposit.state.lower(),
                created_at=wire.moment_text(deposit.created_at),
            )

        return idempotency.once(call, effect=effect, finish=finish)


class RequestWithdrawal(Endpoint):
    """Withdraw money, up to what is withdrawable. Outside a demo it is held until it is paid.

    The status is 201 when it is posted and 202 while it is held.
    """

    method = "POST"
    scope = "transfer"
    status = 201
    pending_status = 202
    tag = "account"
    is_idempotent = True
    codes = ("insufficient_funds",)
    Output = Movement

    class Input(Strict):
        """How much."""

        amount: Money

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        amount_micros = wire.parse_money(given.amount)

        def effect() -> str:
            withdrawal = operations.request_withdrawal(
                organization_id=call.organization, amount_micros=amount_micros
            )
            return str(withdrawal.pk)

        def finish(reference: str) -> tuple[int, Movement]:
            row = operations.finish_withdrawal(models.Withdrawal.objects.get(pk=int(reference)))
            if row.state == models.Withdrawal.State.REFUSED:
                operations.accepted(row.instruction)
            status = 201 if row.state == models.Withdrawal.State.POSTED else 202
            return status, Movement(
                id=str(row.pk),
                amount=wire.micros_text(row.amount_micros),
                state=row.state.lower(),
                created_at=wire.moment_text(row.created_at),
            )

        return idempotency.once(call, effect=effect, finish=finish)


class ApiKey(Answer):
    """A key without its secret; `prefix` is how it begins."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    default_class: str
    overflow: str
    public_key: str | None
    addresses: list[str]
    created_at: str


class NewApiKey(ApiKey):
    """A key that was just made. `key` is shown this once and can never be read again."""

    key: str


class ListApiKeys(Endpoint):
    """The active keys of the organization, the newest first."""

    scope = "read"
    tag = "account"
    Item = ApiKey
    Output = Listed[ApiKey]

    def handle(self, call: Call) -> Listed[ApiKey]:
        """Answer."""
        rows = list(queries.api_keys(organization_id=call.organization))
        if call.page.after is not None:
            ids = [row.pk for row in rows]
            last = str(call.page.after[0])
            rows = rows[ids.index(last) + 1 :] if last in ids else []
        return call.page.page(
            rows[: call.page.fetch],
            lambda row: ApiKey(**_fields(row)),
            position=lambda row: [row.pk],
        )


class CreateApiKey(Endpoint):
    """Make a key with some of the scopes of the key that asks for it.

    It works everywhere as soon as this is answered. A key may be bound to an Ed25519 public key,
    then its requests are signed, and to addresses or networks.
    """

    method = "POST"
    scope = "transfer"
    status = 201
    tag = "account"
    codes = ("key_limit",)
    Output = NewApiKey

    class Input(Strict):
        """What the key may do, and from where."""

        scopes: Annotated[
            list[Literal["read", "trade", "transfer", "gateway", "operate"]],
            msgspec.Meta(min_length=1, max_length=5),
        ]
        name: Annotated[str, msgspec.Meta(max_length=80)] = ""
        default_class: Literal["p0", "p1", "p2", "p3"] = "p2"
        overflow: Literal["spill", "reject", "queue"] = "spill"
        public_key: Annotated[str, msgspec.Meta(max_length=44)] | None = None
        addresses: Annotated[list[str], msgspec.Meta(max_length=20)] = msgspec.field(
            default_factory=list
        )

    def handle(self, call: Call, given: Input) -> NewApiKey:
        """Answer."""
        assert call.key is not None, "the endpoint has a scope"
        for scope in given.scopes:
            call.key.require(scope)
        made = operations.create_key(
            organization_id=call.organization,
            scopes=sorted(set(given.scopes), key=keys.SCOPES.index),
            name=given.name,
            default_class=given.default_class.upper(),
            overflow=given.overflow.upper(),
            public_key=_public_key(given.public_key),
            addresses=given.addresses,
        )
        return NewApiKey(**_fields(made.row), key=made.text)


class RevokeApiKey(Endpoint):
    """Revoke a key. When this is answered, no request that begins later is taken with it."""

    method = "DELETE"
    scope = "transfer"
    tag = "account"

    class Output(Answer):
        """Which key, and when it ended."""

        id: str
        revoked_at: str

    def handle(self, call: Call, key_id: str) -> Output:
        """Answer."""
        row = operations.revoke_key(organization_id=call.organization, key_id=key_id)
        assert row.revoked_at is not None, "it was just revoked"
        return self.Output(id=row.pk, revoked_at=wire.moment_text(row.revoked_at))


def _fields(row: models.ApiKey) -> dict[str, Any]:
    """Return what is shown of a key."""
    public_key = None if row.public_key is None else base64.b64encode(row.public_key).decode()
    return {
        "id": row.pk,
        "name": row.name,
        "prefix": f"{keys.prefix(settings.DEPLOYMENT)}{row.pk}_",
        "scopes": list(row.scopes),
        "default_class": row.default_class.lower(),
        "overflow": row.overflow.lower(),
        "public_key": public_key,
        "addresses": list(row.addresses),
        "created_at": wire.moment_text(row.created_at),
    }


def _public_key(text: str | None) -> bytes | None:
    """Return the 32 bytes of an Ed25519 public key in base64.

    :raises Malformed: when it is not one.
    """
    if text is None:
        return None
    try:
        data = base64.b64decode(text, validate=True)
        Ed25519PublicKey.from_public_bytes(data)
    except (binascii.Error, ValueError):
        raise errors.Malformed(
            "public_key is an Ed25519 public key, 32 bytes in base64",
            errors=[errors.FieldError(field="public_key", code="invalid_value")],
        ) from None
    return data
