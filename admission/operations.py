"""What may be done in admission: register a cluster, have it certified, probe it, break a demo's.

A modelled cluster lives in the deployment's own model server, under its id; a live one is
wherever its provider says, as long as that may be called (`admission.upstream`). Certification
and probes are work for the background; here they are asked for.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError, URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import msgspec
from django.conf import settings
from django.db import transaction

from admission import cluster as physics
from admission import models, observation, outages, queries, upstream
from marketplace import clock, contract, errors
from marketplace import models as catalog
from settlement import delivery, instructions, jobs, kinds
from settlement import models as clearing
from settlement import operations as settlement_operations

CERTIFY = "certify"
CERTIFICATION_VALID = 400 * contract.DAY
"""Longer than any package (365 days), which needs it to span its term (RULEBOOK 4.7), and than the
months that are listed ahead; probes take back what is not there long before it ends."""
HTTP_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 10.0
PROBES_AT_ONCE = 8
log = logging.getLogger(__name__)


class ClusterRefused(errors.Refusal):
    """The hardware cannot serve the grade; the code says why."""

    code, title = "unsupported_cluster", "The cluster cannot serve the grade"


class CertificationRunning(errors.Refusal):
    """A certification of the cluster has begun and has not ended."""

    code, status, title = "certification_running", 409, "A certification is running"


class ClusterDown(errors.Refusal):
    """Nothing was available on the cluster for an hour, and it has not come back."""

    code, status, title = "cluster_down", 409, "The cluster is down"


class NotModelled(errors.Refusal):
    """Only a modelled cluster can be broken on purpose."""

    code, title = "not_modelled", "The cluster is not a modelled one"


def register_cluster(
    *,
    organization_id: int,
    grade: str,
    name: str,
    accelerator: str,
    tensor_parallel: int,
    replicas: int,
    endpoint: str | None = None,
) -> catalog.Cluster:
    """Register a cluster for a grade; without an endpoint it is a modelled one.

    :raises NotFound: when there is no such grade.
    :raises ClusterRefused: when the hardware cannot serve it.
    :raises EndpointRefused: when the endpoint may not be called.
    """
    terms = catalog.Grade.objects.filter(code=grade).first()
    if terms is None:
        raise errors.NotFound()
    problem = physics.problem(
        physics.Cluster(
            accelerator=accelerator,
            model=terms.model_shape,
            precision=terms.precision,
            tensor_parallel=tensor_parallel,
            replicas=replicas,
        )
    )
    if problem is not None:
        raise ClusterRefused(problem.replace("_", " "), code=problem)
    if endpoint is not None:
        endpoint = upstream.check_endpoint(endpoint, upstream.allowed(settings.UPSTREAM_ALLOW))
    with transaction.atomic():
        row = catalog.Cluster.objects.create(
            organization_id=organization_id,
            grade=terms,
            name=name,
            is_modelled=endpoint is None,
            accelerator=accelerator,
            tensor_parallel=tensor_parallel,
            replicas=replicas,
            endpoint=endpoint or "",
            state=catalog.Cluster.State.REGISTERED,
            created_at=clock.now(),
        )
        if endpoint is None:
            row.endpoint = f"{settings.CLUSTER_ORIGIN}/clusters/{row.pk}/v1"
            row.save(update_fields=["endpoint"])
            transaction.on_commit(lambda: _install(row))
    return row


def _install(row: catalog.Cluster) -> None:
    """Tell the model server of a cluster; one that is away reads it when it starts."""
    body = msgspec.json.encode(queries.modelled_cluster(row))
    try:
        _send("PUT", f"{settings.CLUSTER_ORIGIN}/clusters/{row.pk}", body)
    except errors.Unavailable:
        log.debug("the model server does not answer; it will find cluster %s by itself", row.pk)


def request_certification(*, cluster_id: int) -> models.Certification:
    """Begin to certify a cluster.

    :raises NotFound: when there is no such cluster.
    :raises ClusterDown: when it is down.
    :raises CertificationRunning: when one has begun and not ended.
    """
    kinds.load()
    with transaction.atomic():
        row = (
            catalog.Cluster.objects.select_for_update(no_key=True)
            .filter(pk=cluster_id)
            .exclude(state=catalog.Cluster.State.DEREGISTERED)
            .first()
        )
        if row is None:
            raise errors.NotFound()
        if row.state == catalog.Cluster.State.DOWN:
            raise ClusterDown()
        state = models.Certification.State
        if models.Certification.objects.filter(
            cluster=cluster_id, state__in=[state.PENDING, state.RUNNING]
        ).exists():
            raise CertificationRunning()
        certification = models.Certification.objects.create(
            cluster=cluster_id, state=state.PENDING, created_at=clock.now()
        )
        jobs.enqueue(kind=CERTIFY, slot=str(certification.pk), due_at=clock.now_micros())
    return certification


def certify(*, cluster: catalog.Cluster, certification_id: int, lots: int) -> str:
    """Instruct the machine to set a cluster's certified rate; return the instruction's id."""
    instruction_id = f"certify:{certification_id}"
    if clearing.Instruction.objects.filter(id=instruction_id).exists():
        return instruction_id  # It stands, whatever has become of the cluster since.
    valid_until = clock.to_micros(
        models.Certification.objects.values_list("created_at", flat=True).get(pk=certification_id)
    )
    lots = outages.hold_back(
        cluster=cluster, lots=lots, valid_until=valid_until + CERTIFICATION_VALID
    )
    settlement_operations.instruct(
        id=instruction_id,
        command=instructions.Certify(
            cluster=cluster.pk,
            account=cluster.organization_id,
            grade=cluster.grade_id,
            lots=lots,
            valid_until=valid_until + CERTIFICATION_VALID,
            p0_lots=delivery.timed_lots(lots, cluster.replicas),
            timed_lots=delivery.timed_lots(lots, cluster.replicas),
        ),
    )
    return instruction_id


def set_fault(*, cluster_id: int, available: float) -> None:
    """Have a demo's modelled cluster serve only a share of its requests.

    :raises NotFound: when there is no such cluster.
    :raises NotModelled: when it is not in the model server.
    :raises Unavailable: when the model server does not answer.
    """
    row = queries.cluster(cluster_id)
    if row is None:
        raise errors.NotFound()
    if not row.is_modelled:
        raise NotModelled()
    body = msgspec.json.encode({"available": available})
    _install(row)
    _send("PUT", f"{settings.CLUSTER_ORIGIN}/clusters/{cluster_id}/fault", body)


def probe_clusters(*, n: int) -> dict[str, list[int]]:
    """Probe every cluster that may serve `n` times now; return [passed, made] by cluster id.

    A cluster is left out when no gateway was there to probe it: then nobody was watching.
    """
    ids = list(
        catalog.Cluster.objects.filter(
            state__in=[catalog.Cluster.State.CERTIFIED, catalog.Cluster.State.DOWN]
        )
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    outcomes: dict[int, list[bool]] = {cluster_id: [] for cluster_id in ids}
    with ThreadPoolExecutor(PROBES_AT_ONCE, thread_name_prefix="probe") as threads:
        asked = [cluster_id for cluster_id in ids for _ in range(n)]
        for cluster_id, outcome in zip(asked, threads.map(probe, asked), strict=True):
            if outcome is not None:
                outcomes[cluster_id].append(outcome[0])
    return {str(key): [sum(found), len(found)] for key, found in outcomes.items() if found}


def probe(cluster_id: int) -> tuple[bool, str] | None:
    """Send one probe through the gateway; return whether it passed and why not.

    None: there was no gateway to send it through.
    """
    body = msgspec.json.encode({"cluster": cluster_id})
    headers = {"Authorization": f"Bearer {observation.probe_token()}"}
    try:
        answer = _send(
            "POST",
            f"{settings.GATEWAY_ORIGIN}/probe",
            body,
            headers=headers,
            timeout_s=PROBE_TIMEOUT_S,
        )
    except errors.Unavailable:
        return None
    fields = msgspec.json.decode(answer)
    return bool(fields["passed"]), str(fields["reason"])[:40]


def _send(
    method: str,
    url: str,
    body: bytes,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = HTTP_TIMEOUT_S,
) -> bytes:
    """Send a small request to one of the deployment's own servers and return the answer.

    :raises Unavailable: when there was none, or it was not a success.
    """
    request = HttpRequest(  # noqa: S310 - the address is the deployment's own
        url,
        data=body,
        method=method,
        headers={"Content-Type": "application/json", **(headers or {})},
    )
    try:
        with urlopen(request, timeout=timeout_s) as response:  # noqa: S310
            answer: bytes = response.read()
            return answer
    except (HTTPError, URLError, OSError) as error:
        raise errors.Unavailable(
            f"{method} {url}: {type(error).__name__}", retry_after_s=1
        ) from None
