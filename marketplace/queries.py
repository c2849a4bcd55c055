"""Reads of the catalog: members, keys, grades, clusters and listings.

Each returns a queryset in an explicit order with a unique last key, or frozen values.
"""

from django.db.models import Count, QuerySet

from marketplace import errors, keys, models

_MEMBER_SCOPES = {
    models.Membership.Role.OWNER: ("read", "trade", "transfer", "gateway"),
    models.Membership.Role.TRADER: ("read", "trade"),
    models.Membership.Role.VIEWER: ("read",),
}


def membership(*, user: models.User) -> models.Membership | None:
    """Return the user's first membership, with its organization."""
    return (
        models.Membership.objects.filter(user=user)
        .select_related("organization")
        .order_by("id")
        .first()
    )


def member_key(*, user: models.User) -> keys.Key | None:
    """Return what a member may do in a session, as a key would say it."""
    found = membership(user=user)
    if found is None:
        return None
    organization = found.organization
    return keys.Key(
        id=f"member:{found.pk}",
        organization=organization.pk,
        group=organization.group or organization.pk,
        role=organization.role,
        scopes=frozenset(_MEMBER_SCOPES[models.Membership.Role(found.role)]),
    )


def organization(organization_id: int) -> models.Organization:
    """Return an organization.

    :raises NotFound: when there is none.
    """
    found = models.Organization.objects.filter(pk=organization_id).first()
    if found is None:
        raise errors.NotFound()
    return found


def api_keys(*, organization_id: int) -> QuerySet[models.ApiKey]:
    """Return the active keys of an organization, newest first."""
    return models.ApiKey.objects.filter(organization_id=organization_id, revoked_at=None).order_by(
        "-created_at", "id"
    )


def grades() -> QuerySet[models.Grade]:
    """Return the grades that are listed, by code."""
    return models.Grade.objects.filter(is_listed=True).order_by("code")


def grade(code: str) -> models.Grade:
    """Return a listed grade.

    :raises NotFound: when there is none.
    """
    found = models.Grade.objects.filter(code=code, is_listed=True).first()
    if found is None:
        raise errors.NotFound()
    return found


def clusters(*, organization_id: int) -> QuerySet[models.Cluster]:
    """Return the clusters of an organization, oldest first."""
    return (
        models.Cluster.objects.filter(organization_id=organization_id)
        .select_related("grade")
        .order_by("id")
    )


def cluster(*, organization_id: int, cluster_id: int) -> models.Cluster:
    """Return a cluster of the organization.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = clusters(organization_id=organization_id).filter(pk=cluster_id).first()
    if found is None:
        raise errors.NotFound()
    return found


def listings(*, organization_id: int) -> QuerySet[models.Listing]:
    """Return the listings of an organization, newest first."""
    return models.Listing.objects.filter(organization_id=organization_id).order_by("-id")


def listing(*, organization_id: int, listing_id: int) -> models.Listing:
    """Return a listing of the organization.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = listings(organization_id=organization_id).filter(pk=listing_id).first()
    if found is None:
        raise errors.NotFound()
    return found


def counts() -> dict[str, int]:
    """Return how many organizations there are by role."""
    rows = models.Organization.objects.values_list("role").annotate(Count("id")).order_by("role")
    return {role.lower(): count for role, count in rows}
