"""Who takes part in the demo's market, and what is traded in it.

Reference prices are list prices per million uncached input tokens of real offers, and output
weights their ratio of output to input price: GPT-4o and Claude Sonnet by their
makers (LiteLLM price map, 2026-07-24); Llama 3.3 70B the median of the 18 providers in that map.
What the weights of the two closed models are is not public; their clusters are modelled by open
models of a comparable class, and the name of the grade says no more than whose price it follows.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from django.db import transaction

from marketplace import clock, models, operations, traders

OPERATOR = models.Organization.Role.OPERATOR
PROVIDER = models.Organization.Role.PROVIDER
BUYER = models.Organization.Role.BUYER
DEMO_EMAIL = "demo@baseload.test"
STAFF_EMAIL = "operator@baseload.test"


SLOT_REFERENCE_TICKS = (50, 20)
"""What a slot of P0 and of P1 costs at first: half a cent and a fifth of one, a lot and hour."""
NO_SLOTS = (0, 0)
"""Of a grade whose clusters have one replica each, and so may sell none (RULEBOOK 7.4)."""
PREMIUM_PERCENTS = (5, 3)
"""What of a month's mark the premiums of price caps and of shortage cover begin at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedGrade:
    """A grade, and the clusters that serve it: (owner, accelerator, tensor parallel, replicas)."""

    code: str
    name: str
    aliases: tuple[str, ...]
    model_shape: str
    precision: str
    reference_price_ticks: int
    weight_output: int
    list_price: str
    context_tokens_max: int
    output_tokens_max: int
    clusters: tuple[tuple[str, str, int, int], ...]
    slot_reference_ticks: tuple[int, int] = SLOT_REFERENCE_TICKS


MAKER = "Tidewater Markets"
COVER_BIDDER = "Quay Capital"
"""Who bids for shortage cover: the maker has clusters, and so may not hold it."""
FIRST_PROVIDER = "Northwind Compute"
SECOND_PROVIDER = "Helios Clusters"
FIRST_BUYER = "Acme AI"

GRADES = (
    SeedGrade(
        code="LLAMA70B",
        name="Llama 3.3 70B Instruct",
        aliases=("llama-3.3-70b-instruct", "meta-llama/Llama-3.3-70B-Instruct"),
        model_shape="LLAMA70B",
        precision="fp8",
        reference_price_ticks=600,
        weight_output=4_000,
        list_price="0.60 USD, median of 18 providers, LiteLLM price map of 2026-07-24",
        context_tokens_max=131_072,
        output_tokens_max=8_192,
        clusters=(
            (MAKER, "H100", 2, 2),
            (FIRST_PROVIDER, "H100", 4, 1),
            (SECOND_PROVIDER, "B200", 2, 1),
        ),
    ),
    SeedGrade(
        code="GPT4O",
        name="GPT-4o class",
        aliases=("gpt-4o",),
        model_shape="QWEN32B",
        precision="fp8",
        reference_price_ticks=2_500,
        weight_output=4_000,
        list_price="2.50 USD, OpenAI, LiteLLM price map of 2026-07-24",
        context_tokens_max=128_000,
        output_tokens_max=16_384,
        clusters=((MAKER, "H100", 1, 2), (SECOND_PROVIDER, "H100", 2, 1)),
    ),
    SeedGrade(
        code="SONNET",
        name="Claude Sonnet class",
        aliases=("claude-sonnet",),
        model_shape="QWEN235B",
        precision="fp8",
        reference_price_ticks=3_000,
        weight_output=5_000,
        list_price="3.00 USD, Anthropic, LiteLLM price map of 2026-07-24",
        context_tokens_max=200_000,
        output_tokens_max=32_768,
        clusters=((MAKER, "H100", 8, 1), (FIRST_PROVIDER, "H100", 8, 1)),
        slot_reference_ticks=NO_SLOTS,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedOrganization:
    """An organization of the demo, its first deposit, and how it trades if it does."""

    name: str
    role: str
    deposit_micros: int = 0
    trader: traders.Trader | None = None


def _trading(name: str, opinion_permille: int, lots_max: int, needs_lots: int) -> traders.Trader:
    return traders.Trader(
        name=name, opinion_permille=opinion_permille, lots_max=lots_max, needs_lots=needs_lots
    )


THOUSAND_USD = 1_000 * 1_000_000

ORGANIZATIONS = (
    SeedOrganization(name="Baseload Operations", role=OPERATOR),
    SeedOrganization(name="Baseload Risk", role=OPERATOR),
    SeedOrganization(name=MAKER, role=PROVIDER, deposit_micros=500 * THOUSAND_USD),
    SeedOrganization(
        name=FIRST_PROVIDER,
        role=PROVIDER,
        deposit_micros=50 * THOUSAND_USD,
        trader=_trading(FIRST_PROVIDER, 40, 25, 0),
    ),
    SeedOrganization(
        name=SECOND_PROVIDER,
        role=PROVIDER,
        deposit_micros=50 * THOUSAND_USD,
        trader=_trading(SECOND_PROVIDER, 45, 25, 0),
    ),
    SeedOrganization(
        name=FIRST_BUYER,
        role=BUYER,
        deposit_micros=20 * THOUSAND_USD,
        trader=_trading(FIRST_BUYER, 10, 20, 40),
    ),
    SeedOrganization(
        name="Bluebird Labs",
        role=BUYER,
        deposit_micros=20 * THOUSAND_USD,
        trader=_trading("Bluebird Labs", 15, 15, 25),
    ),
    SeedOrganization(
        name="Orchid Apps",
        role=BUYER,
        deposit_micros=10 * THOUSAND_USD,
        trader=_trading("Orchid Apps", 20, 10, 15),
    ),
    SeedOrganization(
        name=COVER_BIDDER,
        role=BUYER,
        deposit_micros=50 * THOUSAND_USD,
        trader=_trading(COVER_BIDDER, 35, 20, 0),
    ),
    SeedOrganization(
        name="Meridian Desk",
        role=BUYER,
        deposit_micros=50 * THOUSAND_USD,
        trader=_trading("Meridian Desk", 30, 20, 0),
    ),
)


@dataclass(slots=True, kw_only=True)
class Catalog:
    """What was made: organizations by name, their keys, and the demo's login."""

    organizations: dict[str, models.Organization]
    keys: dict[str, str]
    email: str
    password: str


def make(*, progress: Callable[[str], object]) -> Catalog:
    """Make organizations, keys, logins and grades; the clusters come later, with their rates."""
    made = Catalog(organizations={}, keys={}, email=DEMO_EMAIL, password=secrets.token_urlsafe(12))
    for one in ORGANIZATIONS:
        scopes = [*operations.ALL_SCOPES] + (["operate"] if one.role == OPERATOR else [])
        with transaction.atomic():
            organization = operations.open_organization(name=one.name, role=one.role)
            organization.is_verified = True
            organization.save(update_fields=["is_verified"])
            key = operations.insert_key(organization_id=organization.pk, scopes=scopes, name="demo")
            if one.deposit_micros:
                operations.request_deposit(
                    organization_id=organization.pk, amount_micros=one.deposit_micros, key="seed"
                )
        made.organizations[one.name] = organization
        made.keys[one.name] = key.text
    _make_users(made)
    for grade in GRADES:
        _make_grade(grade)
    progress(f"{len(ORGANIZATIONS)} organizations, {len(GRADES)} grades")
    return made


def _make_users(made: Catalog) -> None:
    """One person who buys for one organization and sells for another; one of the staff."""
    person = models.User.objects.create_user(
        made.email, made.password, name="Demo", created_at=clock.now()
    )
    staff = models.User.objects.create_superuser(
        STAFF_EMAIL, made.password, name="Operator", created_at=clock.now()
    )
    for user, name in (
        (person, FIRST_BUYER),
        (person, FIRST_PROVIDER),
        (staff, "Baseload Operations"),
    ):
        models.Membership.objects.create(
            user=user,
            organization=made.organizations[name],
            role=models.Membership.Role.OWNER,
            created_at=clock.now(),
        )


def _make_grade(grade: SeedGrade) -> models.Grade:
    return models.Grade.objects.create(
        code=grade.code,
        name=grade.name,
        aliases=list(grade.aliases),
        region="us-east",
        precision=grade.precision,
        model_shape=grade.model_shape,
        context_tokens_max=grade.context_tokens_max,
        output_tokens_max=grade.output_tokens_max,
        weight_output=grade.weight_output,
        reference_price_ticks=grade.reference_price_ticks,
        list_price=grade.list_price,
        first_token_ms=[500, 1_000, 2_000, 5_000],
        per_token_ms=[50, 60, 100, 200],
        is_listed=True,
        created_at=clock.now(),
    )
