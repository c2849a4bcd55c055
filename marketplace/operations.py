"""What the front writes: organizations, members, keys, money, and what operators decide.

Each operation opens its own transaction unless it says that it needs one. Money never moves here:
a deposit or withdrawal is an instruction to the machine, written with the row that causes it, and
its outcome is read back. What an operator does is written down with the reason in that same
transaction.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from marketplace import clock, errors, keys, models, queries, text
from settlement import instructions
from settlement import models as settlement_models
from settlement import operations as settlement_operations
from settlement import queries as settlement_queries

INSTRUCTION_TIMEOUT_S = 5.0
"""How long a caller waits for the machine to take an instruction."""
KEYS_PER_ORGANIZATION_MAX = 100
ADDRESSES_PER_KEY_MAX = 20
_KEYS_LOCK = 7_301_001
"""Advisory lock under which versions of keys are taken, so that they commit in order."""

CLASSES = ("P0", "P1", "P2", "P3")
OVERFLOWS = ("SPILL", "REJECT", "QUEUE")
ALL_SCOPES = ("read", "trade", "transfer", "gateway")


class NameTaken(errors.Refusal):
    """Another organization has a name that looks the same."""

    code, status, title = "name_taken", 422, "Name is taken"


class TooManyKeys(errors.Refusal):
    """The organization has as many keys as it may have."""

    code, status, title = "key_limit", 422, "Too many keys"


class ScopeNotGiven(errors.Forbidden):
    """A key cannot give what it does not have."""

    code, title = "missing_scope", "Missing scope"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made; its text is shown this once."""

    row: models.ApiKey
    text: str = field(repr=False)


# The deployment


class WrongDeployment(Exception):
    """A demo's process was pointed at production's database, or the other way round."""


def claim_deployment() -> None:
    """Write into a new database what kind of deployment it is; for ever.

    :raises WrongDeployment: when it is the other kind's.
    """
    models.Deployment.objects.bulk_create(
        [models.Deployment(kind=settings.DEPLOYMENT, created_at=clock.now())],
        ignore_conflicts=True,
    )
    kind = models.Deployment.objects.values_list("kind", flat=True).get()
    if kind != settings.DEPLOYMENT:
        raise WrongDeployment(
            f"this database belongs to a {kind} deployment and not to {settings.DEPLOYMENT}"
        )


# Organizations


def open_organization(*, name: str, role: str) -> models.Organization:
    """Create an organization and make it known to the machine.

    `role` is one of `models.Organization.Role`.

    :raises Malformed: when the name may not be shown to others.
    :raises NameTaken: when it looks like that of another.
    """
    shown = text.parse_name(name)
    try:
        with transaction.atomic():
            organization = models.Organization.objects.create(
                name=shown,
                skeleton=text.skeleton(shown),
                role=role,
                created_at=clock.now(),
            )
            organization.group = organization.pk
            organization.save(update_fields=["group"])
            settlement_operations.instruct(
                id=f"open:{organization.pk}",
                command=instructions.OpenAccount(account=organization.pk, group=organization.pk),
            )
    except IntegrityError as error:
        if "organization_name_is_unique" in str(error):
            raise NameTaken("another organization has a name that looks the same") from None
        raise
    return organization


def sign_up(*, email: str, password: str, organization_name: str, role: str) -> models.User:
    """Create a user who owns a new organization.

    :raises Malformed: when the name may not be shown to others.
    :raises NameTaken: when it looks like that of another.
    """
    with transaction.atomic():
        organization = open_organization(name=organization_name, role=role)
        user = models.User.objects.create_user(email, password, created_at=clock.now())
        models.Membership.objects.create(
            user=user,
            organization=organization,
            role=models.Membership.Role.OWNER,
            created_at=clock.now(),
        )
    return user


def verify_organization(*, organization_id: int, actor: str, reason: str) -> None:
    """Note that an operator has verified an organization."""
    with transaction.atomic():
        organization = queries.organization(organization_id)
        organization.is_verified = True
        organization.save(update_fields=["is_verified"])
        audit(actor=actor, action="verify", target=f"organization:{organization_id}", reason=reason)


def audit(
    *,
    actor: str,
    action: str,
    target: str,
    reason: str,
    details: dict[str, object] | None = None,
) -> None:
    """Write down what an operator does, in the transaction in which it is done."""
    assert connection.in_atomic_block, "an audit entry stands or falls with what it tells"
    models.AuditEntry.objects.create(
        actor=actor,
        action=action,
        target=target,
        reason=reason,
        details=details or {},
        at=clock.now(),
    )


# Keys


def create_key(
    *,
    organization_id: int,
    scopes: Sequence[str],
    name: str = "",
    default_class: str = "P2",
    overflow: str = "SPILL",
    public_key: bytes | None = None,
    addresses: Sequence[str] = (),
) -> NewKey:
    """Create a key; when this returns, every process knows it.

    :raises Malformed: when an address is none, or the name may not be shown.
    :raises TooManyKeys: when the organization has `KEYS_PER_ORGANIZATION_MAX`.
    """
    with transaction.atomic():
        made = insert_key(
            organization_id=organization_id,
            scopes=scopes,
            name=name,
            default_class=default_class,
            overflow=overflow,
            public_key=public_key,
            addresses=addresses,
        )
    announce_keys(version=made.row.version)
    return made


def insert_key(
    *,
    organization_id: int,
    scopes: Sequence[str],
    name: str = "",
    default_class: str = "P2",
    overflow: str = "SPILL",
    public_key: bytes | None = None,
    addresses: Sequence[str] = (),
) -> NewKey:
    """Write a key in the caller's transaction; `announce_keys` must follow its commit.

    :raises Malformed: when an address is none, or the name may not be shown.
    :raises TooManyKeys: when the organization has `KEYS_PER_ORGANIZATION_MAX`.
    """
    assert set(scopes) <= set(keys.SCOPES), "scopes are checked at the door"
    shown = text.parse_name(name) if name else ""
    for address in addresses:
        _refuse_bad_address(address)
    version = _next_version()
    if queries.api_keys(organization_id=organization_id).count() >= KEYS_PER_ORGANIZATION_MAX:
        raise TooManyKeys(f"an organization has at most {KEYS_PER_ORGANIZATION_MAX} keys")
    issued = keys.issue(pepper=settings.KEY_PEPPER, deployment=settings.DEPLOYMENT)
    row = models.ApiKey.objects.create(
        id=issued.id,
        organization_id=organization_id,
        name=shown,
        digest=issued.digest,
        scopes=list(scopes),
        default_class=default_class,
        overflow=overflow,
        public_key=public_key,
        addresses=list(addresses),
        version=version,
        created_at=clock.now(),
    )
    return NewKey(row=row, text=issued.text)


def revoke_key(*, organization_id: int, key_id: str) -> models.ApiKey:
    """Revoke a key; when this returns, no process takes it any more.

    :raises NotFound: when the organization has no such active key.
    """
    with transaction.atomic():
        version = _next_version()
        row = queries.api_keys(organization_id=organization_id).filter(pk=key_id).first()
        if row is None:
            raise errors.NotFound()
        row.revoked_at = clock.now()
        row.version = version
        row.save(update_fields=["revoked_at", "version"])
    announce_keys(version=version)
    return row


def announce_keys(*, version: int) -> None:
    """Return when every process has seen this version of the keys; call it after commit."""
    assert not connection.in_atomic_block or connection.savepoint_ids == [], "commit first"
    keys.announce_and_wait(version=version, valkey_url=settings.VALKEY_URL, connection=connection)


def _next_version() -> int:
    """Return the next version of the keys; whoever takes the following one waits for our commit."""
    assert connection.in_atomic_block, "the lock lasts as long as the transaction"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_KEYS_LOCK])
        cursor.execute("SELECT nextval('marketplace_apikey_version')")
        return int(cursor.fetchone()[0])


def _refuse_bad_address(address: str) -> None:
    """:raises Malformed: when it is neither an address nor a network."""
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError:
        raise errors.Malformed(
            "an address is IPv4 or IPv6, or a network with its prefix",
            errors=[errors.FieldError(field="addresses", code="invalid_value")],
        ) from None


# Money


def request_deposit(*, organization_id: int, amount_micros: int, key: str) -> models.Deposit:
    """Note a deposit in the caller's transaction; a demo instructs the machine at once.

    `key` is the caller's idempotency key: the same one never deposits twice.
    """
    assert connection.in_atomic_block, "a deposit is noted with its idempotency record"
    deposit = models.Deposit.objects.create(
        organization_id=organization_id,
        amount_micros=amount_micros,
        state=models.Deposit.State.PENDING,
        instruction=f"deposit:{organization_id}:{key}",
        created_at=clock.now(),
    )
    if settings.IS_DEMO:
        _instruct_deposit(deposit)
    return deposit


def confirm_deposit(*, deposit_id: int, actor: str, reason: str) -> models.Deposit:
    """Credit money that an operator has seen arrive.

    :raises NotFound: when there is no such deposit.
    """
    with transaction.atomic():
        deposit = (
            models.Deposit.objects.select_for_update(no_key=True).filter(pk=deposit_id).first()
        )
        if deposit is None:
            raise errors.NotFound()
        _instruct_deposit(deposit)
        audit(actor=actor, action="confirm_deposit", target=f"deposit:{deposit_id}", reason=reason)
    return finish_deposit(deposit)


def finish_deposit(deposit: models.Deposit) -> models.Deposit:
    """Return the deposit as the machine has left it; one that nobody confirmed stays pending.

    :raises OutcomeUnknown: when the machine did not take it in time; it will.
    """
    written = settlement_models.Instruction.objects.filter(pk=deposit.instruction).exists()
    if deposit.state == models.Deposit.State.PENDING and written:
        reason = outcome(deposit.instruction)
        states = models.Deposit.State
        deposit.state = states.REFUSED if reason else states.POSTED
        deposit.confirmed_at = clock.now()
        deposit.save(update_fields=["state", "confirmed_at"])
    return deposit


def _instruct_deposit(deposit: models.Deposit) -> None:
    settlement_operations.instruct(
        id=deposit.instruction,
        command=instructions.Deposit(
            account=deposit.organization_id, amount_micros=deposit.amount_micros
        ),
    )


def request_withdrawal(*, organization_id: int, amount_micros: int) -> models.Withdrawal:
    """Instruct the machine to pay out, or in production to hold, in the caller's transaction.

    Whether there is enough is for the machine to say, in its own order of things.
    """
    assert connection.in_atomic_block, "a withdrawal is noted with its idempotency record"
    withdrawal = models.Withdrawal.objects.create(
        organization_id=organization_id,
        amount_micros=amount_micros,
        state=models.Withdrawal.State.PENDING,
        created_at=clock.now(),
    )
    kind = instructions.Withdraw if settings.IS_DEMO else instructions.HoldWithdrawal
    settlement_operations.instruct(
        id=withdrawal.instruction,
        command=kind(account=organization_id, amount_micros=amount_micros),
    )
    return withdrawal


def finish_withdrawal(withdrawal: models.Withdrawal) -> models.Withdrawal:
    """Return the withdrawal as the machine has left it.

    :raises OutcomeUnknown: when the machine did not take it in time; it will.
    """
    states = models.Withdrawal.State
    if withdrawal.state == states.PENDING:
        reason = outcome(withdrawal.instruction)
        taken = states.POSTED if settings.IS_DEMO else states.HELD
        models.Withdrawal.objects.filter(pk=withdrawal.pk, state=states.PENDING).update(
            state=states.REFUSED if reason else taken
        )
        withdrawal.refresh_from_db()
    return withdrawal


def decide_withdrawal(
    *, withdrawal_id: int, is_paid: bool, actor: str, reason: str
) -> models.Withdrawal:
    """Post a withdrawal that an operator has seen paid, or void it and give the money back.

    :raises NotFound: when there is no such withdrawal.
    :raises Refusal: `hold_unknown` when nothing is held for it any more.
    """
    withdrawal = models.Withdrawal.objects.filter(pk=withdrawal_id).first()
    if withdrawal is None:
        raise errors.NotFound()
    finish_withdrawal(withdrawal)
    if withdrawal.state != models.Withdrawal.State.HELD:
        raise errors.Refusal("nothing is held for it any more", code="hold_unknown")
    account, hold = withdrawal.organization_id, withdrawal.instruction
    command: instructions.AnyInstruction = (
        instructions.PostWithdrawal(
            account=account, hold=hold, amount_micros=withdrawal.amount_micros
        )
        if is_paid
        else instructions.VoidWithdrawal(account=account, hold=hold)
    )
    _decide(
        instruction_id=f"{hold}:{'paid' if is_paid else 'void'}",
        command=command,
        actor=actor,
        action="pay_withdrawal" if is_paid else "void_withdrawal",
        target=hold,
        reason=reason,
    )
    states = models.Withdrawal.State
    withdrawal.state = states.POSTED if is_paid else states.VOIDED
    withdrawal.decided_at = clock.now()
    withdrawal.save(update_fields=["state", "decided_at"])
    return withdrawal


def outcome(instruction_id: str) -> str:
    """Wait for the machine to take an instruction; return why it was refused, or an empty text.

    :raises OutcomeUnknown: when it did not in `INSTRUCTION_TIMEOUT_S`; it will when it runs.
    """
    try:
        found = settlement_queries.wait_for_instruction(
            instruction_id, timeout_s=INSTRUCTION_TIMEOUT_S
        )
    except errors.OutcomeUnknown:
        raise errors.OutcomeUnknown(
            "the request is kept and will be carried out; repeat it to learn its outcome",
            retry_after_s=1,
        ) from None
    return "" if found.is_applied else found.reason


def accepted(instruction_id: str) -> None:
    """Wait for the machine to take an instruction.

    :raises Refusal: with the machine's reason as its code.
    :raises OutcomeUnknown: when it did not take it in time.
    """
    reason = outcome(instruction_id)
    if reason:
        raise errors.Refusal(f"the exchange refused: {reason.replace('_', ' ')}", code=reason)


# What operators decide


def _decide(
    *,
    instruction_id: str,
    command: instructions.AnyInstruction,
    actor: str,
    action: str,
    target: str,
    reason: str,
    also: Callable[[], None] = lambda: None,
) -> None:
    """Write an operator's instruction with its audit entry, and wait for the machine to take it.

    :raises Refusal: with the machine's reason as its code.
    """
    with transaction.atomic():
        settlement_operations.instruct(id=instruction_id, command=command)
        also()
        audit(
            actor=actor,
            action=action,
            target=target,
            reason=reason,
            details={"instruction": instruction_id},
        )
    accepted(instruction_id)


def set_halt(
    *,
    halted: bool,
    actor: str,
    reason: str,
    request_id: str,
    instrument: str = "",
    grade: str = "",
) -> None:
    """Stop trading of an instrument, of a grade or, without either, of all; or let it go on.

    :raises Refusal: with the machine's reason as its code.
    """
    command: instructions.Halt | instructions.Resume
    if halted:
        command = instructions.Halt(instrument=instrument, grade=grade, reason=reason)
    else:
        command = instructions.Resume(instrument=instrument, grade=grade)
    action = "halt" if halted else "resume"
    target = f"instrument:{instrument}" if instrument else f"grade:{grade}" if grade else "market"
    _decide(
        instruction_id=f"{action}:{request_id}",
        command=command,
        actor=actor,
        action=action,
        target=target,
        reason=reason,
    )


def set_killed(
    *, organization_id: int, enabled: bool, actor: str, reason: str, request_id: str
) -> None:
    """Cancel all orders of an organization and refuse new ones, or lift that.

    :raises NotFound: when there is no such organization.
    :raises Refusal: with the machine's reason as its code.
    """
    organization = queries.organization(organization_id)

    def mark() -> None:
        organization.is_killed = enabled
        organization.save(update_fields=["is_killed"])

    _decide(
        instruction_id=f"kill:{request_id}",
        command=instructions.KillSwitch(account=organization_id, enabled=enabled),
        actor=actor,
        action="kill" if enabled else "lift_kill",
        target=f"organization:{organization_id}",
        reason=reason,
        also=mark,
    )
