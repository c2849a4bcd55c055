"""The capacity part of the API: clusters, offers, packages, pooled purchases, standing resale."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal

from baseload import describe, models, terms
from baseload.calls import Call, endpoint, listing
from baseload.terms import Number


class CapacityApi:
    """What is sold and bought beside the books."""

    @listing
    def clusters(self) -> Call[models.Page[models.Cluster]]:
        """List own clusters."""
        return describe.get("clusters", models.Page[models.Cluster])

    @endpoint
    def register_cluster(
        self,
        name: str,
        grade: str,
        accelerator: str,
        *,
        tensor_parallel: int = 1,
        replicas: int = 1,
        endpoint: str | None = None,
        idempotency_key: str = "",
    ) -> Call[models.Cluster]:
        """Register a cluster; without an `endpoint` it is modelled."""
        body: dict[str, Any] = {
            "name": name,
            "grade": grade,
            "accelerator": accelerator,
            "tensor_parallel": tensor_parallel,
            "replicas": replicas,
        } | ({} if endpoint is None else {"endpoint": endpoint})
        return describe.once("clusters", body, models.Cluster, idempotency_key)

    @endpoint
    def certify_cluster(
        self, cluster_id: str, *, idempotency_key: str = ""
    ) -> Call[models.Certification]:
        """Begin to certify a cluster; `certification` says how far it is."""
        path = f"clusters/{describe.part(cluster_id)}/certify"
        return describe.once(path, None, models.Certification, idempotency_key)

    @endpoint
    def certification(self, cluster_id: str, certification_id: str) -> Call[models.Certification]:
        """Return how far a certification is."""
        path = (
            f"clusters/{describe.part(cluster_id)}/certifications/{describe.part(certification_id)}"
        )
        return describe.get(path, models.Certification)

    @listing
    def cover_offers(
        self, cluster_id: str, *, page_size: int = 100
    ) -> Call[models.Page[models.CoverOffer]]:
        """List the open offers of cover of an own cluster, the newest first."""
        path = f"clusters/{describe.part(cluster_id)}/cover"
        return describe.get(path, models.Page[models.CoverOffer], limit=page_size)

    @endpoint
    def offer_cover(
        self, cluster_id: str, price: Number, quantity: int, *, idempotency_key: str = ""
    ) -> Call[models.CoverOffer]:
        """Offer to take over what other sellers' clusters fail to serve, at a price."""
        path = f"clusters/{describe.part(cluster_id)}/cover"
        body = {"price": terms.price_text(price), "quantity": quantity}
        return describe.once(path, body, models.CoverOffer, idempotency_key)

    @endpoint
    def withdraw_cover(self, cluster_id: str, cover_offer_id: str) -> Call[models.CoverOffer]:
        """Withdraw an offer of cover."""
        path = f"clusters/{describe.part(cluster_id)}/cover/{describe.part(cover_offer_id)}"
        return describe.same("DELETE", path, models.CoverOffer)

    @listing
    def listings(self) -> Call[models.Page[models.Offer]]:
        """List own offers of capacity, the newest first."""
        return describe.get("listings", models.Page[models.Offer])

    @endpoint
    def offer(
        self,
        cluster_id: str,
        instrument: str,
        quantity: int,
        price: Number,
        *,
        idempotency_key: str = "",
    ) -> Call[models.Offer]:
        """Offer lots of a certified cluster in an instrument."""
        body = {
            "cluster": cluster_id,
            "instrument": instrument,
            "price": terms.price_text(price),
            "quantity": quantity,
        }
        return describe.once("listings", body, models.Offer, idempotency_key)

    @endpoint
    def withdraw_offer(self, listing_id: str) -> Call[models.Offer]:
        """Withdraw an offer: what is not sold yet is canceled."""
        return describe.same("DELETE", f"listings/{describe.part(listing_id)}", models.Offer)

    @endpoint
    def cluster(self, cluster_id: str) -> Call[models.Cluster]:
        """Return one of the own clusters."""
        return describe.get(f"clusters/{describe.part(cluster_id)}", models.Cluster)

    # Packages

    @listing
    def packages(
        self, *, grade: str = "", provider: str = "", page_size: int = 100
    ) -> Call[models.Page[models.Package]]:
        """List packages on offer, the newest first; all that a provider ever listed."""
        page = models.Page[models.Package]
        return describe.get("packages", page, grade=grade, provider=provider, limit=page_size)

    @endpoint
    def package(self, package_id: str) -> Call[models.Package]:
        """Return a package that is, or was, on offer."""
        return describe.get(f"packages/{describe.part(package_id)}", models.Package)

    @endpoint
    def offer_package(
        self,
        grade: str,
        from_date: date,
        to_date: date,
        lots: Sequence[int],
        list_price: Number,
        *,
        p1_lots: Sequence[int] = (),
        discounts: Mapping[int, int] | None = None,
        quantity: int = 1,
        idempotency_key: str = "",
    ) -> Call[models.Package]:
        """List a package until `to_date`, which it leaves out; `discounts` are percent by days.

        `lots` are one number, 24 by the hour of the day, or 168 by that of the week, UTC.
        """
        body = {
            "grade": grade,
            "from_date": f"{from_date:%Y-%m-%d}",
            "to_date": f"{to_date:%Y-%m-%d}",
            "lots": list(lots),
            "p1_lots": list(p1_lots),
            "list_price": terms.price_text(list_price),
            "discounts": [
                {"days": days, "percent": percent}
                for days, percent in sorted((discounts or {}).items())
            ],
            "quantity": quantity,
        }
        return describe.once("packages", body, models.Package, idempotency_key)

    @endpoint
    def withdraw_package(self, package_id: str) -> Call[models.Package]:
        """Sell nothing more of a package."""
        path = f"packages/{describe.part(package_id)}"
        return describe.same("DELETE", path, models.Package)

    @endpoint
    def quote_package(
        self, package_id: str, from_date: date, to_date: date, *, quantity: int = 1
    ) -> Call[models.PackageQuote]:
        """Return what a term of a package would cost now, and what it saves."""
        path = f"packages/{describe.part(package_id)}/quote"
        return describe.same("POST", path, models.PackageQuote, _term(from_date, to_date, quantity))

    @endpoint
    def buy_package(
        self,
        package_id: str,
        from_date: date,
        to_date: date,
        *,
        quantity: int = 1,
        idempotency_key: str = "",
    ) -> Call[models.BoughtPackage]:
        """Buy a term of a package; its whole price goes into escrow."""
        path = f"packages/{describe.part(package_id)}/buy"
        body = _term(from_date, to_date, quantity)
        return describe.once(path, body, models.BoughtPackage, idempotency_key)

    @listing
    def bought_packages(self, *, page_size: int = 100) -> Call[models.Page[models.BoughtPackage]]:
        """List packages that are or were held, the newest first."""
        page = models.Page[models.BoughtPackage]
        return describe.get("packages/bought", page, limit=page_size)

    @endpoint
    def bought_package(self, bought_id: str) -> Call[models.BoughtPackage]:
        """Return a package that is or was held, with what remains of it."""
        return describe.get(f"packages/bought/{describe.part(bought_id)}", models.BoughtPackage)

    @listing
    def sold_packages(self, *, page_size: int = 100) -> Call[models.Page[models.BoughtPackage]]:
        """List packages that are or were delivered, the newest first."""
        page = models.Page[models.BoughtPackage]
        return describe.get("packages/sold", page, limit=page_size)

    @endpoint
    def resell_package(
        self,
        bought_id: str,
        starts_at: datetime,
        ends_at: datetime,
        lots: Sequence[int],
        price: Number,
        *,
        p1_lots: Sequence[int] = (),
        buyer: str = "",
        idempotency_key: str = "",
    ) -> Call[models.PackageSlice]:
        """Offer a slice of a package to everybody, or to one organization, by its id."""
        body: dict[str, Any] = {
            "starts_at": terms.instant(starts_at),
            "ends_at": terms.instant(ends_at),
            "lots": list(lots),
            "p1_lots": list(p1_lots),
            "price": terms.price_text(price),
        } | ({"buyer": buyer} if buyer else {})
        path = f"packages/bought/{describe.part(bought_id)}/resell"
        return describe.once(path, body, models.PackageSlice, idempotency_key)

    @listing
    def package_slices(
        self, *, grade: str = "", page_size: int = 100
    ) -> Call[models.Page[models.PackageSlice]]:
        """List slices of others' packages that can be bought now, the newest first."""
        page = models.Page[models.PackageSlice]
        return describe.get("packages/slices", page, grade=grade, limit=page_size)

    @listing
    def own_package_slices(self, *, page_size: int = 100) -> Call[models.Page[models.PackageSlice]]:
        """List slices that were offered, the newest first."""
        page = models.Page[models.PackageSlice]
        return describe.get("packages/slices/own", page, limit=page_size)

    @endpoint
    def withdraw_package_slice(self, slice_id: str) -> Call[models.PackageSlice]:
        """Take a slice back that nobody has bought."""
        path = f"packages/slices/own/{describe.part(slice_id)}"
        return describe.same("DELETE", path, models.PackageSlice)

    @endpoint
    def buy_package_slice(
        self, slice_id: str, *, idempotency_key: str = ""
    ) -> Call[models.BoughtPackage]:
        """Buy a slice that is offered; it becomes a package of its own."""
        path = f"packages/slices/{describe.part(slice_id)}/buy"
        return describe.once(path, None, models.BoughtPackage, idempotency_key)

    # Positions that are taken over from who cannot hold them

    @listing
    def transfers(self, *, page_size: int = 100) -> Call[models.Page[models.TransferOffer]]:
        """List covered shorts that are, or were, offered with their capacity."""
        return describe.get("transfers", models.Page[models.TransferOffer], limit=page_size)

    @listing
    def transfer_bids(self, *, page_size: int = 100) -> Call[models.Page[models.TransferBid]]:
        """List own bids for such offers, the newest first."""
        return describe.get("transfers/bids", models.Page[models.TransferBid], limit=page_size)

    @endpoint
    def bid_for_transfer(
        self, offer_id: str, quantity: int, price: Number, *, idempotency_key: str = ""
    ) -> Call[models.TransferBid]:
        """Bid for lots of an offer, at a price at most its own."""
        body = {"quantity": quantity, "price": terms.price_text(price)}
        path = f"transfers/{describe.part(offer_id)}/bids"
        return describe.once(path, body, models.TransferBid, idempotency_key)

    @endpoint
    def withdraw_transfer_bid(self, bid_id: str) -> Call[models.TransferBid]:
        """Take a bid back before it is due."""
        path = f"transfers/bids/{describe.part(bid_id)}"
        return describe.same("DELETE", path, models.TransferBid)

    # Buying together, and selling what is left over

    @listing
    def commitments(self, *, page_size: int = 100) -> Call[models.Page[models.Commitment]]:
        """List own commitments to pooled purchases, the newest first."""
        page = models.Page[models.Commitment]
        return describe.get("pools/purchase", page, limit=page_size)

    @endpoint
    def open_purchase_pools(self) -> Call[models.PurchasePools]:
        """Return the pools that can be joined, the nearest deadline first."""
        return describe.get("pools/purchase/open", models.PurchasePools)

    @endpoint
    def commit_purchase(
        self,
        instrument: str,
        deadline: datetime,
        quantity: int,
        price: Number,
        *,
        idempotency_key: str = "",
    ) -> Call[models.Commitment]:
        """Commit lots and a limit price to the pool of an instrument and a deadline."""
        body = {
            "instrument": instrument,
            "deadline": terms.instant(deadline),
            "quantity": quantity,
            "price": terms.price_text(price),
        }
        return describe.once("pools/purchase", body, models.Commitment, idempotency_key)

    @endpoint
    def withdraw_commitment(self, commitment_id: str) -> Call[models.Commitment]:
        """Take a commitment back before its deadline."""
        path = f"pools/purchase/{describe.part(commitment_id)}"
        return describe.same("DELETE", path, models.Commitment)

    @listing
    def resale_instructions(
        self, *, page_size: int = 100
    ) -> Call[models.Page[models.ResaleInstruction]]:
        """List standing resale instructions, the newest first."""
        page = models.Page[models.ResaleInstruction]
        return describe.get("resale-instructions", page, limit=page_size)

    @endpoint
    def instruct_resale(
        self,
        grade: str,
        floor_price: Number,
        *,
        forecast: Literal["last_week_same_hour", "none"] = "last_week_same_hour",
        keep_lots: int = 0,
        idempotency_key: str = "",
    ) -> Call[models.ResaleInstruction]:
        """Have surplus of a grade sold at or above a floor price, hour by hour."""
        body = {
            "grade": grade,
            "floor_price": terms.price_text(floor_price),
            "forecast": forecast,
            "keep_lots": keep_lots,
        }
        path = "resale-instructions"
        return describe.once(path, body, models.ResaleInstruction, idempotency_key)

    @endpoint
    def stop_resale(self, instruction_id: str) -> Call[models.ResaleInstruction]:
        """Follow a resale instruction no longer, and cancel what it offers."""
        path = f"resale-instructions/{describe.part(instruction_id)}"
        return describe.same("DELETE", path, models.ResaleInstruction)


def _term(from_date: date, to_date: date, quantity: int) -> dict[str, Any]:
    return {
        "from_date": f"{from_date:%Y-%m-%d}",
        "to_date": f"{to_date:%Y-%m-%d}",
        "quantity": quantity,
    }
