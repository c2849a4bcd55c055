"""The part of the API that only operators may use, and a demo's."""

from typing import Any

from baseload import describe, models, terms
from baseload.calls import Call, endpoint, listing
from baseload.terms import Number


class OperatorApi:
    """What operators decide; every decision has a reason, for the audit trail."""

    @endpoint
    def halt_instrument(self, symbol: str, reason: str = "") -> Call[models.InstrumentState]:
        """Stop an instrument."""
        path = f"instruments/{describe.part(symbol)}/halt"
        return describe.same("POST", path, models.InstrumentState, {"reason": reason})

    @endpoint
    def resume_instrument(self, symbol: str, reason: str = "") -> Call[models.InstrumentState]:
        """Let an instrument trade again, after an auction."""
        path = f"instruments/{describe.part(symbol)}/resume"
        return describe.same("POST", path, models.InstrumentState, {"reason": reason})

    @endpoint
    def halt_grade(self, grade: str, reason: str = "") -> Call[models.GradeState]:
        """Stop everything of a grade."""
        path = f"grades/{describe.part(grade)}/halt"
        return describe.same("POST", path, models.GradeState, {"reason": reason})

    @endpoint
    def resume_grade(self, grade: str, reason: str = "") -> Call[models.GradeState]:
        """Let a grade trade again."""
        path = f"grades/{describe.part(grade)}/resume"
        return describe.same("POST", path, models.GradeState, {"reason": reason})

    @endpoint
    def halt_market(self, reason: str = "") -> Call[models.MarketState]:
        """Stop everything."""
        return describe.same("POST", "market/halt", models.MarketState, {"reason": reason})

    @endpoint
    def resume_market(self, reason: str = "") -> Call[models.MarketState]:
        """Let everything trade again."""
        return describe.same("POST", "market/resume", models.MarketState, {"reason": reason})

    @endpoint
    def kill_organization(
        self, organization_id: str, *, enabled: bool = True, reason: str = ""
    ) -> Call[models.Killed]:
        """Cancel all that an organization has working, and take nothing from it; or end that."""
        path = f"organizations/{describe.part(organization_id)}/kill"
        return describe.same("POST", path, models.Killed, {"enabled": enabled, "reason": reason})

    @endpoint
    def override_index(
        self, grade: str, hour: str, price: Number, reason: str
    ) -> Call[models.IndexOverride]:
        """Propose the index of an hour, or agree to what another operator has proposed."""
        path = f"index/{describe.part(grade)}/{describe.part(hour)}/override"
        body = {"price": terms.price_text(price), "reason": reason}
        return describe.same("POST", path, models.IndexOverride, body)

    @listing
    def open_disputes(self, *, page_size: int = 100) -> Call[models.Page[models.Dispute]]:
        """List disputes that nobody has decided, the oldest first."""
        return describe.get("disputes/open", models.Page[models.Dispute], limit=page_size)

    @endpoint
    def decide_dispute(
        self,
        dispute_id: str,
        *,
        uphold: bool,
        reason: str,
        available_ntu: Number | None = None,
        short_ntu: Number | None = None,
    ) -> Call[models.Dispute]:
        """Decide a dispute, or agree to what another operator has proposed."""
        body: dict[str, Any] = {"uphold": uphold, "reason": reason}
        for name, figure in (("available_ntu", available_ntu), ("short_ntu", short_ntu)):
            if figure is not None:
                body[name] = terms.fixed(figure, 3)
        path = f"disputes/{describe.part(dispute_id)}/decide"
        return describe.single(path, models.Dispute, body)

    @endpoint
    def operations(self) -> Call[dict[str, Any]]:
        """Return jobs, processes, leases, alerts and the engine at one instant."""
        return describe.get("operations", dict[str, Any])

    @endpoint
    def defaults(self) -> Call[dict[str, Any]]:
        """Return margin calls, what defaults cost and who bore it, fund and layer."""
        return describe.get("operations/defaults", dict[str, Any])

    @endpoint
    def set_layer(self, limit: Number, reason: str) -> Call[models.Layer]:
        """Propose how much the exchange's layer holds, or agree to what another has proposed."""
        body = {"limit": terms.fixed(limit, terms.MONEY_DECIMALS), "reason": reason}
        return describe.same("POST", "operations/layer", models.Layer, body)

    @endpoint
    def run_job_again(self, kind: str, slot: str, reason: str) -> Call[models.JobsMoved]:
        """Have a job that was set aside run again."""
        body = {"kind": kind, "slot": slot, "reason": reason}
        return describe.single("operations/jobs/run-again", models.JobsMoved, body)

    @endpoint
    def give_job_up(self, kind: str, slot: str, reason: str) -> Call[models.JobsMoved]:
        """Give a job up that was set aside; what waits for it goes on."""
        body = {"kind": kind, "slot": slot, "reason": reason}
        return describe.single("operations/jobs/give-up", models.JobsMoved, body)

    @endpoint
    def set_fault(self, cluster_id: str, available: float) -> Call[models.Fault]:
        """Let a modelled cluster of a demo serve a share of its rate, 0 to 1."""
        body = {"cluster": cluster_id, "available": available}
        return describe.same("POST", "demo/faults", models.Fault, body)
