"""The clearing house's rows, for staff to read. What they decide is an instruction."""

from django.contrib import admin

from marketplace import backoffice
from settlement import models


@admin.register(models.Account)
class AccountAdmin(backoffice.ReadOnly):
    """One unit of one owner in the ledger."""

    list_display = ("id", "owner", "kind", "unit", "debits", "credits", "held", "closed_in")
    list_filter = ("kind", "may_go_negative")
    search_fields = ("=id", "=owner", "unit")
    ordering = ("id",)


@admin.register(models.MarginAccount)
class MarginAccountAdmin(backoffice.ReadOnly):
    """What the machine last said of an organization's money."""

    list_display = (
        "organization_id",
        "cash",
        "available",
        "order_margin",
        "initial_margin",
        "escrow",
        "debt",
        "default_fund",
        "margin_call_due_at",
        "updated_at",
    )
    list_filter = (("margin_call_due_at", admin.EmptyFieldListFilter),)
    search_fields = ("=organization_id",)
    ordering = ("organization_id",)
    initial_margin = backoffice.money("initial_margin_micros", "initial margin")
    default_fund = backoffice.money("fund_micros", "share of the default fund")
    cash = backoffice.money("cash_micros", "cash")
    available = backoffice.money("available_micros", "available")
    order_margin = backoffice.money("order_margin_micros", "order margin")
    escrow = backoffice.money("escrow_micros", "escrow")
    debt = backoffice.money("debt_micros", "debt")


@admin.register(models.Position)
class PositionAdmin(backoffice.ReadOnly):
    """Net lots."""

    list_display = ("organization_id", "symbol", "net_lots", "cost_ticks", "updated_at")
    search_fields = ("=organization_id", "symbol")
    ordering = ("symbol", "organization_id")


@admin.register(models.Mark)
class MarkAdmin(backoffice.ReadOnly):
    """Prices that positions were settled to."""

    list_display = ("symbol", "shown_price", "method", "at")
    list_filter = ("method",)
    search_fields = ("symbol",)
    ordering = ("-at", "-id")
    shown_price = backoffice.price("price_ticks", "price")


@admin.register(models.IndexValue)
class IndexValueAdmin(backoffice.ReadOnly):
    """The hourly index."""

    list_display = (
        "grade",
        "hour_starts_at",
        "version",
        "shown_price",
        "method",
        "at",
        "short_digest",
    )
    list_filter = ("grade", "method")
    date_hierarchy = "hour_starts_at"
    ordering = ("-hour_starts_at", "grade", "-version")
    shown_price = backoffice.price("price_ticks", "price")
    short_digest = backoffice.digest("digest", "digest")
    exclude = ("inputs", "digest")


@admin.register(models.IndexOverride)
class IndexOverrideAdmin(backoffice.ReadOnly):
    """Corrections of the index that operators proposed, and who confirmed them."""

    list_display = (
        "grade",
        "hour_starts_at",
        "version",
        "shown_price",
        "state",
        "reason",
        "proposed_by",
        "proposed_at",
        "confirmed_by",
    )
    list_filter = ("grade", "state")
    date_hierarchy = "hour_starts_at"
    ordering = ("-proposed_at", "-id")
    shown_price = backoffice.price("price_ticks", "price")


@admin.register(models.Instruction)
class InstructionAdmin(backoffice.ReadOnly):
    """Commands to the machine that are rows."""

    list_display = ("id", "number", "state", "reason", "sequence", "created_at", "applied_at")
    list_filter = ("state", "reason")
    search_fields = ("id",)
    ordering = ("-number",)
    readonly_fields = ("shown_body",)
    exclude = ("body",)

    @admin.display(description="body")
    def shown_body(self, row: models.Instruction) -> str:
        """Print the stored JSON."""
        return bytes(row.body).decode(errors="replace")


@admin.register(models.Obligation)
class ObligationAdmin(backoffice.ReadOnly):
    """Sellers' duties."""

    list_display = (
        "id",
        "organization_id",
        "grade",
        "starts_at",
        "lots",
        "failed_lots",
        "shown_price",
    )
    list_filter = ("grade",)
    search_fields = ("=organization_id",)
    date_hierarchy = "starts_at"
    ordering = ("-starts_at", "id")
    shown_price = backoffice.price("price_ticks", "price")


@admin.register(models.Entitlement)
class EntitlementAdmin(backoffice.ReadOnly):
    """Holders' rights."""

    list_display = (
        "id",
        "organization_id",
        "grade",
        "starts_at",
        "lots",
        "shown_price",
        "escrow",
        "delivered_mntu",
    )
    list_filter = ("grade",)
    search_fields = ("=organization_id",)
    date_hierarchy = "starts_at"
    ordering = ("-starts_at", "id")
    shown_price = backoffice.price("price_ticks", "price")
    escrow = backoffice.money("escrow_micros", "escrow")


@admin.register(models.Allocation)
class AllocationAdmin(backoffice.ReadOnly):
    """Which cluster serves which lots."""

    list_display = ("id", "grade", "starts_at", "holder", "seller", "cluster", "lots")
    list_filter = ("grade",)
    search_fields = ("=holder", "=seller", "=cluster")
    ordering = ("-starts_at", "id")
    list_select_related = ()


@admin.register(models.DeliveryReport)
class DeliveryReportAdmin(backoffice.ReadOnly):
    """What admission saw of an allocation in an interval."""

    list_display = (
        "allocation_id",
        "interval",
        "owed_mntu",
        "available_mntu",
        "short_mntu",
        "delivered_mntu",
        "probes_passed",
        "probes",
        "is_suspended",
    )
    list_filter = ("is_suspended",)
    search_fields = ("=allocation__id",)
    ordering = ("-id",)


@admin.register(models.IntervalSettlement)
class IntervalSettlementAdmin(backoffice.ReadOnly):
    """What an interval of an allocation paid."""

    list_display = ("allocation_id", "interval", "released", "refunded", "compensated", "at")
    search_fields = ("=allocation__id",)
    ordering = ("-id",)
    released = backoffice.money("released_micros", "released")
    refunded = backoffice.money("refunded_micros", "refunded")
    compensated = backoffice.money("compensated_micros", "compensated")


@admin.register(models.DeliveryCover)
class DeliveryCoverAdmin(backoffice.ReadOnly):
    """What standing offers delivered in the stead of clusters that failed."""

    list_display = ("allocation_id", "interval", "offer", "cluster", "price_ticks", "mntu")


@admin.register(models.CoverSettlement)
class CoverSettlementAdmin(backoffice.ReadOnly):
    """What they were paid for it."""

    list_display = ("allocation_id", "offer", "seller", "released_micros", "excess_micros", "at")
    ordering = ("-id",)


@admin.register(models.SettlementRun)
class SettlementRunAdmin(backoffice.ReadOnly):
    """Days that were settled again, by what they were computed from."""

    list_display = ("id", "kind", "allocations", "at", "short_inputs", "short_result")
    list_filter = ("kind", "grade")
    date_hierarchy = "delivery_date"
    ordering = ("-at", "-id")
    short_inputs = backoffice.digest("inputs_digest", "inputs")
    short_result = backoffice.digest("result_digest", "result")
    exclude = ("inputs_digest", "result_digest", "posted_digest")


@admin.register(models.SettlementRunLine)
class SettlementRunLineAdmin(backoffice.ReadOnly):
    """What runs found to be posted differently."""

    list_display = ("run_id", "allocation_id", "delivery", "damages", "due_micros")
    search_fields = ("=run__id", "=allocation__id")
    ordering = ("-id",)
    delivery = backoffice.money("delivery_micros", "delivery")
    damages = backoffice.money("damages_micros", "damages")


@admin.register(models.DeliveryCorrection)
class DeliveryCorrectionAdmin(backoffice.ReadOnly):
    """What the machine posted of them."""

    list_display = ("run", "allocation_id", "delivery", "damages", "due_micros", "at")
    search_fields = ("=run", "=allocation__id")
    ordering = ("-id",)
    delivery = backoffice.money("delivery_micros", "delivery")
    damages = backoffice.money("damages_micros", "damages")


@admin.register(models.DeliveryRevision)
class DeliveryRevisionAdmin(backoffice.ReadOnly):
    """What is known better of an interval."""

    list_display = ("allocation_id", "interval", "source", "available_mntu", "short_mntu", "at")
    list_filter = ("source",)
    search_fields = ("=allocation__id",)
    ordering = ("-id",)


@admin.register(models.DeliveryDay)
class DeliveryDayAdmin(backoffice.ReadOnly):
    """How far the runs of each day of delivery are planned."""

    list_display = ("grade", "delivery_date", "planned_runs")
    list_filter = ("grade",)
    ordering = ("-delivery_date", "grade")


@admin.register(models.DeliveryFigure)
class DeliveryFigureAdmin(backoffice.ReadOnly):
    """What parties say was delivered."""

    list_display = ("allocation_id", "party", "mntu", "at")
    list_filter = ("party",)
    search_fields = ("=allocation__id",)
    ordering = ("-id",)


@admin.register(models.DeliveryDifference)
class DeliveryDifferenceAdmin(backoffice.ReadOnly):
    """Deliveries whose parties count otherwise than the gateway."""

    list_display = ("allocation_id", "gateway_mntu", "seller_mntu", "holder_mntu", "run_id", "at")
    search_fields = ("=allocation__id", "=run__id")
    ordering = ("-id",)


@admin.register(models.Dispute)
class DisputeAdmin(backoffice.ReadOnly):
    """Objections to settled intervals; operators decide them over REST."""

    list_display = (
        "id",
        "allocation_id",
        "intervals",
        "opened_by",
        "state",
        "opened_at",
        "proposed_by",
        "decided_by",
        "decided_at",
        "settled_at",
    )
    list_filter = ("state",)
    search_fields = ("=id", "=allocation__id", "=opened_by")
    ordering = ("-id",)


@admin.register(models.MonthlyStatement)
class MonthlyStatementAdmin(backoffice.ReadOnly):
    """Statements of months that are over."""

    list_display = ("organization_id", "month_date", "opening", "closing", "short_digest", "at")
    search_fields = ("=organization_id",)
    ordering = ("-month_date", "organization_id")
    opening = backoffice.money("opening_micros", "opening")
    closing = backoffice.money("closing_micros", "closing")
    short_digest = backoffice.digest("digest", "digest")
    exclude = ("body", "digest")


@admin.register(models.Job)
class JobAdmin(backoffice.ReadOnly):
    """The queue of record; a parked job is one that somebody must look at."""

    list_display = ("kind", "slot", "state", "due_at", "attempts", "holder", "leased_until")
    list_filter = ("state", "kind")
    search_fields = ("slot", "error")
    ordering = ("-due_at", "-id")


@admin.register(models.Lease)
class LeaseAdmin(backoffice.ReadOnly):
    """Who runs what must run once."""

    list_display = ("name", "holder", "epoch", "expires_at")
    ordering = ("name",)


@admin.register(models.ClockJump)
class ClockJumpAdmin(backoffice.ReadOnly):
    """Moves of a demonstration's clock."""

    list_display = ("from_at", "to_at")
    ordering = ("-id",)


@admin.register(models.TransferShown)
class TransferAdmin(backoffice.ByTwoKeys):
    """Immutable double entries."""

    keys = (("chain", str), ("sequence", int))
    list_display = (
        "id",
        "at",
        "code",
        "phase",
        "debit_account",
        "credit_account",
        "amount",
        "cause",
    )
    list_filter = ("chain", "phase", "code")
    search_fields = ("=debit_account", "=credit_account", "=cause")
    ordering = ("-sequence", "chain")


@admin.register(models.TransferIdShown)
class TransferIdAdmin(backoffice.ByTwoKeys):
    """Ids of transfers, each taken for ever."""

    keys = (("chain", str), ("sequence", int))
    list_display = ("id", "name", "at")
    list_filter = ("chain",)
    search_fields = ("=name",)
    ordering = ("-sequence", "chain")


@admin.register(models.HoldShown)
class HoldAdmin(backoffice.ByTwoKeys):
    """Amounts that transfers have reserved, open and ended."""

    keys = (("chain", str), ("sequence", int))
    list_display = ("id", "name", "debit_account", "credit_account", "amount", "expires_at")
    list_filter = ("chain",)
    search_fields = ("=name", "=debit_account")
    ordering = ("-sequence", "chain")


@admin.register(models.HoldResolutionShown)
class HoldResolutionAdmin(backoffice.ByTwoKeys):
    """How holds ended."""

    keys = (("chain", str), ("sequence", int))
    list_display = ("id", "hold", "phase", "amount")
    list_filter = ("chain", "phase")
    search_fields = ("=hold",)
    ordering = ("-sequence", "chain")


@admin.register(models.ChainLinkShown)
class ChainLinkAdmin(backoffice.ByTwoKeys):
    """The hashes that bind batches of transfers."""

    keys = (("chain", str), ("sequence", int))
    list_display = ("id", "first_sequence", "at", "short_hash", "short_previous")
    list_filter = ("chain",)
    ordering = ("-sequence", "chain")
    short_hash = backoffice.digest("hash", "hash")
    short_previous = backoffice.digest("previous_hash", "previous hash")
    exclude = ("hash", "previous_hash")


@admin.register(models.SealShown)
class SealAdmin(backoffice.ByTwoKeys):
    """Signed heads."""

    keys = (("chain", str), ("sequence", int))
    list_display = ("id", "at", "short_hash", "short_signature")
    list_filter = ("chain",)
    ordering = ("-at", "chain")
    short_hash = backoffice.digest("hash", "hash")
    short_signature = backoffice.digest("signature", "signature")
    exclude = ("hash", "signature")


@admin.register(models.ChainHead)
class ChainHeadAdmin(backoffice.ReadOnly):
    """Where each chain ends."""

    list_display = ("chain", "sequence", "at", "short_hash")
    ordering = ("chain",)
    short_hash = backoffice.digest("hash", "hash")
    exclude = ("hash",)


@admin.register(models.SigningKey)
class SigningKeyAdmin(backoffice.ReadOnly):
    """Public keys that seals verify with."""

    list_display = ("id", "purpose", "valid_from", "valid_until", "short_key")
    list_filter = ("purpose",)
    ordering = ("-valid_from", "id")
    short_key = backoffice.digest("public_key", "public key")
    exclude = ("public_key",)


@admin.register(models.DeliveryHour)
class DeliveryHourAdmin(backoffice.ReadOnly):
    """How far the work of each hour of delivery is."""

    list_display = ("grade", "starts_at", "planned_steps", "granted_at", "expired_at")
    list_filter = ("grade",)
    ordering = ("-starts_at", "grade")


@admin.register(models.Heartbeat)
class HeartbeatAdmin(backoffice.ReadOnly):
    """When each process of the background work was last heard of."""

    list_display = ("process", "role", "queues", "started_at", "seen_at")
    list_filter = ("role",)
    ordering = ("role", "process")


@admin.register(models.SlotSettlement)
class SlotSettlementAdmin(backoffice.ReadOnly):
    """What became of the slots of each account at gate closure."""

    ordering = ("-id",)


@admin.register(models.InsurancePayment)
class InsurancePaymentAdmin(backoffice.ReadOnly):
    """What price caps and shortage cover have paid."""

    ordering = ("-id",)


@admin.register(models.InsurancePosition)
class InsurancePositionAdmin(backoffice.ReadOnly):
    """Who held caps and cover, or had written them, when their trading ended."""

    list_display = ("organization_id", "symbol", "lots", "pay_ticks")
    ordering = ("-id",)


@admin.register(models.InsuredUsage)
class InsuredUsageAdmin(backoffice.ReadOnly):
    """What caps were reckoned on, hour by hour."""

    list_display = ("organization_id", "grade", "starts_at", "mntu", "at")
    list_filter = ("grade",)
    ordering = ("-id",)


@admin.register(models.InsuranceRunLine)
class InsuranceRunLineAdmin(backoffice.ReadOnly):
    """Where a later run found that caps and cover had been paid differently."""

    list_display = (
        "run_id",
        "symbol",
        "hour_starts_at",
        "organization_id",
        "owed_micros",
        "posted_micros",
    )
    ordering = ("-id",)


@admin.register(models.InsuranceCorrection)
class InsuranceCorrectionAdmin(backoffice.ReadOnly):
    """What such differences moved."""

    ordering = ("-id",)


@admin.register(models.Package)
class PackageAdmin(backoffice.ReadOnly):
    """Packages as they now are."""

    list_display = ("id", "seller", "holder", "grade", "starts_at", "ends_at", "price_ticks")
    list_filter = ("grade",)
    ordering = ("-id",)


@admin.register(models.PackageResale)
class PackageResaleAdmin(backoffice.ReadOnly):
    """Slices of packages that were sold on."""

    list_display = ("package", "parent", "holder", "buyer", "lot_hours", "amount_micros", "at")
    ordering = ("-package",)


@admin.register(models.DefaultEvent)
class DefaultEventAdmin(backoffice.ReadOnly):
    """Margin calls, liquidations, defaults, haircuts, and limits of the layer."""

    list_display = ("at", "organization_id", "kind", "amount_micros", "cause", "next_at")
    list_filter = ("kind",)
    search_fields = ("=organization_id", "=cause")
    ordering = ("-id",)


@admin.register(models.WaterfallDraw)
class WaterfallDrawAdmin(backoffice.ReadOnly):
    """Who bore what of a debt to clearing, down the waterfall."""

    list_display = (
        "at",
        "organization_id",
        "amount_micros",
        "own_micros",
        "receivables_micros",
        "share_micros",
        "layer_micros",
        "others_micros",
        "unpaid_micros",
        "cause",
    )
    search_fields = ("=organization_id", "=cause")
    ordering = ("-id",)


@admin.register(models.TransferOffer)
class TransferOfferAdmin(backoffice.ReadOnly):
    """Covered shorts that were offered to other obligors."""

    list_display = ("id", "organization_id", "symbol", "lots", "due_at", "moved_lots", "outcome")
    search_fields = ("=organization_id", "=symbol")
    ordering = ("-id",)


@admin.register(models.TransferBid)
class TransferBidAdmin(backoffice.ReadOnly):
    """Bids for covered shorts."""

    list_display = ("id", "organization_id", "offer", "lots", "price_ticks", "state", "moved_lots")
    list_filter = ("state",)
    ordering = ("-id",)


@admin.register(models.LayerProposal)
class LayerProposalAdmin(backoffice.ReadOnly):
    """Limits of the exchange's layer, as two operators have set them."""

    list_display = ("id", "limit_micros", "state", "proposed_by", "confirmed_by", "proposed_at")
    ordering = ("-id",)
