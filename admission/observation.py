"""What a gateway does off the path of its requests, in threads: look, ask, and leave word.

Looking renews the lease on the schedulers, leaves the heartbeat of the running interval and reads
the market's snapshot, through Django's ORM, about once a second. Asking is holding cash in the
machine. The live numbers go to Valkey, where they lapse with the gateway.
"""

import contextlib
import hashlib
import hmac
import itertools
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
import valkey
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction

from admission import models, queries
from admission.decisions import ServiceClass
from admission.pools import Pools
from admission.snapshot import Snapshot
from marketplace import clock, contract, errors
from settlement import instructions, leases, operations, slots
from settlement import queries as settlement_queries

__all__ = ["DatabaseError", "Observer", "live_of", "own_hosts", "probe_token"]

LEASE = "schedulers"
LEASE_S = 3.0
LIVE_TTL_S = 5
HOLD_WAIT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at the market."""

    is_leading: bool
    snapshot: Snapshot


class Observer:
    """The eyes and the hands of one gateway; its methods block and are called from threads."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._held: leases.Held | None = None
        self._beat_at = -1
        self._asked = itertools.count(1)
        self._valkey = valkey.Valkey.from_url(
            settings.VALKEY_URL, socket_timeout=0.5, socket_connect_timeout=0.5
        )

    def look(self) -> Seen:
        """Renew the lease, leave the heartbeat and return the market.

        :raises DatabaseError: when the database is away.
        """
        try:
            self._held = leases.take(name=LEASE, holder=self._gateway, seconds=LEASE_S)
            at = clock.now_micros()
            snapshot = queries.snapshot(at)
            if self._held is not None:
                self._beat(at)
        except DatabaseError:
            connection.close()
            raise
        return Seen(is_leading=self._held is not None, snapshot=snapshot)

    def _beat(self, at: int) -> None:
        """Leave word that this interval had a gateway."""
        interval = at - at % contract.INTERVAL
        if interval != self._beat_at:
            models.Heartbeat.objects.bulk_create(
                [
                    models.Heartbeat(
                        gateway=self._gateway, interval_starts_at=clock.to_datetime(interval)
                    )
                ],
                ignore_conflicts=True,
            )
            self._beat_at = interval

    def hold_cash(self, organization: int, grade: str, hour: int, amount_micros: int) -> bool:
        """Hold cash for pay-as-you-go tokens; return whether the machine agreed.

        :raises Unavailable: when it does not answer in time: nothing may run on this hold.
        """
        epoch = 0 if self._held is None else self._held.epoch
        hold_id = (
            f"{reserve_prefix(grade, hour)}{organization}:{epoch}:{self._gateway}"
            f":{next(self._asked)}"
        )
        try:
            with transaction.atomic():
                # So that the hour has a last interval, which gives back what is left.
                operations.open_hours([(grade, hour)])
                operations.instruct(
                    id=hold_id,
                    command=instructions.ReserveUsage(
                        account=organization,
                        grade=grade,
                        hour_starts_at=hour,
                        amount_micros=amount_micros,
                    ),
                )
            outcome = settlement_queries.wait_for_instruction(hold_id, timeout_s=HOLD_WAIT_S)
        except (DatabaseError, errors.OutcomeUnknown):
            raise HoldUnknown(retry_after_s=1) from None
        finally:
            connection.close()
        return outcome.state == "APPLIED"

    def publish(self, live: dict[str, bytes]) -> None:
        """Leave the live numbers in Valkey; when it is away, nobody sees them for a while."""
        if not live:
            return
        with contextlib.suppress(valkey.ValkeyError, OSError):
            pipe = self._valkey.pipeline(transaction=False)
            pipe.hset(queries.LIVE_KEY, mapping=live)
            pipe.expire(queries.LIVE_KEY, LIVE_TTL_S)
            pipe.execute()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Let the schedulers go at once, so that another gateway need not wait for them."""
        with contextlib.suppress(DatabaseError):
            if self._held is not None:
                leases.release(self._held)
        connection.close()
        self._valkey.close()  # type: ignore[no-untyped-call]


class HoldUnknown(errors.Unavailable):
    """The machine does not answer, so no cash is held and nothing is served on it."""

    code, title = "engine_unavailable", "Balances cannot be held at the moment"


def reserve_prefix(grade: str, hour_starts_at: int) -> str:
    """Return what the ids of all holds of an hour begin with; the organization follows."""
    return f"reserve:{grade}:{slots.hour_text(hour_starts_at)}:"


def live_of(pools: Pools, gateway: str) -> dict[str, bytes]:
    """Return the live numbers of every pool, by cluster id."""
    live: dict[str, bytes] = {}
    for pool in pools.pools.values():
        at = pool.now()
        seen = pool.scheduler.inspect(at)
        classes = {
            each.name: queries.LiveClass(
                queue_length=report.queued_now,
                running=report.running_now,
                wait_ms_p50=report.wait_us_p50 // 1_000,
                wait_ms_p95=report.wait_us_p95 // 1_000,
                wait_ms_p99=report.wait_us_p99 // 1_000,
                admitted=report.admitted,
                queued=report.queued,
                shed=report.shed,
                spilled=report.spilled,
                jain=None if report.jain is None else float(report.jain),
                bound_ms=None if report.bound_us is None else -(-report.bound_us // 1_000),
                is_bound_void=report.is_bound_void,
                lag_ms=None if report.lag_us is None else -(-report.lag_us // 1_000),
            )
            for each in ServiceClass
            for report in (seen.classes[each],)
        }
        terms = pool.cluster.terms
        live[str(pool.cluster.id)] = msgspec.json.encode(
            queries.LivePool(
                at=at,
                gateway=gateway,
                is_reachable=not pool.is_ejected,
                sequences=sum(replica.sequences for replica in seen.replicas),
                sequences_max=terms.replicas * terms.sequences_max,
                classes=classes,
            )
        )
    return live


def own_hosts() -> tuple[str, ...]:
    """Return the hosts of the deployment's own model server, which may always be called."""
    host = urlsplit(settings.CLUSTER_ORIGIN).hostname
    return (host,) if host else ()


def probe_token() -> str:
    """Return what the deployment's own probes are known by; it never leaves the machine room."""
    return hmac.digest(settings.SECRET_KEY.encode(), b"baseload probe", hashlib.sha256).hex()
