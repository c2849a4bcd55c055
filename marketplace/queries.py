"""Reads of the catalog: members, keys, grades, clusters and listings.

Each returns a queryset in an explicit order with a unique last key, or frozen values.
"""

from django.db.models import QuerySet

from marketplace import errors, keys, models

_MEMBER_SCOPES = {
    models.Membership.Role.OWNER: ("read", "trade", "transfer", "gateway"),
    models.Membership.Role.TRADER: ("read", "trade"),
    models.Membership.Role.VIEWER: ("read",),
}


def memberships(*, user: models.User) -> QuerySet[models.Membership]:
    """Return the user's memberships with their organizations, oldest first."""
    return models.Membership.objects.filter(user=user).select_related("organization").order_by("id")


def membership(
    *, user: models.User, organization_id: int | None = None
) -> models.Membership | None:
    """Return the membership in the organization a session has chosen, else the user's first."""
    found = list(memberships(user=user))
    chosen = (one for one in found if one.organization_id == organization_id)
    return next(chosen, found[0] if found else None)


def member_key(*, user: models.User, organization_id: int | None = None) -> keys.Key | None:
    """Return what a member may do in a session, as a key would say it."""
    found = membership(user=user, organization_id=organization_id)
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
        "-version"
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
