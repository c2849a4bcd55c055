"""The part of the API about what was delivered: deliveries, disputes, insurance, months."""

from collections.abc import Sequence
from typing import Any

from baseload import describe, models, terms
from baseload.calls import Call, endpoint, listing
from baseload.terms import Number

NTU_DECIMALS = 3


class DeliveryApi:
    """What was delivered, what it paid, and who objects."""

    @listing
    def deliveries(self, *, page_size: int = 100) -> Call[models.Page[models.Delivery]]:
        """List own deliveries of either side, the latest hour first."""
        return describe.get("deliveries", models.Page[models.Delivery], limit=page_size)

    @endpoint
    def delivery(self, delivery_id: str) -> Call[models.Delivery]:
        """Return a delivery with its corrections."""
        return describe.get(f"deliveries/{describe.part(delivery_id)}", models.Delivery)

    @endpoint
    def report_figure(self, delivery_id: str, delivered_ntu: Number) -> Call[models.Figure]:
        """Say what was counted of a delivery; the latest figure stands."""
        body = {"delivered_ntu": terms.fixed(delivered_ntu, NTU_DECIMALS)}
        path = f"deliveries/{describe.part(delivery_id)}/figures"
        return describe.same("POST", path, models.Figure, body)

    @listing
    def disputes(self, *, page_size: int = 100) -> Call[models.Page[models.Dispute]]:
        """List disputes of own deliveries, the newest first."""
        return describe.get("disputes", models.Page[models.Dispute], limit=page_size)

    @endpoint
    def dispute(self, dispute_id: str) -> Call[models.Dispute]:
        """Return one dispute."""
        return describe.get(f"disputes/{describe.part(dispute_id)}", models.Dispute)

    @endpoint
    def open_dispute(
        self,
        delivery_id: str,
        reason: str,
        *,
        intervals: Sequence[int] | None = None,
        idempotency_key: str = "",
    ) -> Call[models.Dispute]:
        """Object to intervals of a delivery; without any, to all of them."""
        body: dict[str, Any] = {"delivery": delivery_id, "reason": reason} | (
            {} if intervals is None else {"intervals": list(intervals)}
        )
        return describe.once("disputes", body, models.Dispute, idempotency_key)

    @endpoint
    def withdraw_dispute(self, dispute_id: str) -> Call[models.Dispute]:
        """Take a dispute back that nobody has decided."""
        path = f"disputes/{describe.part(dispute_id)}"
        return describe.same("DELETE", path, models.Dispute)

    @listing
    def insurance(self, *, page_size: int = 100) -> Call[models.Page[models.InsurancePayment]]:
        """List what price caps and shortage cover paid, the latest first."""
        return describe.get("insurance", models.Page[models.InsurancePayment], limit=page_size)

    @listing
    def insurance_corrections(
        self, *, page_size: int = 100
    ) -> Call[models.Page[models.InsuranceCorrection]]:
        """List what later runs added to what insurance had paid, the latest first."""
        return describe.get(
            "insurance/corrections", models.Page[models.InsuranceCorrection], limit=page_size
        )

    @listing
    def slot_settlements(self, *, page_size: int = 100) -> Call[models.Page[models.SlotSettlement]]:
        """List what became of priority slots at gate closure, the latest hour first."""
        return describe.get(
            "settlements/slots", models.Page[models.SlotSettlement], limit=page_size
        )

    @listing
    def months(self) -> Call[models.Page[models.Month]]:
        """List the months that have a statement, the current one first."""
        return describe.get("statements/months", models.Page[models.Month])

    @endpoint
    def month(self, month: str) -> Call[models.MonthStatement]:
        """Return the statement of a month, `2026-12`."""
        return describe.get(f"statements/{describe.part(month)}", models.MonthStatement)
