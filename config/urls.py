"""Every route of the web process: the API here to the path, the pages by their include."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path

from admission import api as admission
from admission import receipts_api
from exchange import api as exchange
from exchange import order_api as orders
from marketplace.api import (
    account,
    capacity,
    control_room,
    cover,
    defaults,
    demo,
    operator,
    package_slices,
    packages,
    public,
    purchases,
    resale,
    rulings,
    schema,
    statements,
    takeovers,
)
from marketplace.endpoint import Nowhere, resource
from marketplace.views import document
from settlement import api as settlement
from settlement import delivery_api, index_api

API: list[URLPattern | URLResolver] = [
    # Public
    path("api/v1/time", resource(public.ShowTime)),
    path("api/v1/status", resource(exchange.ShowStatus)),
    path("api/v1/grades", resource(public.ListGrades)),
    path("api/v1/instruments", resource(exchange.ListInstruments)),
    path("api/v1/instruments/<str:symbol>", resource(exchange.ShowInstrument)),
    path("api/v1/instruments/<str:symbol>/book", resource(exchange.ShowBook)),
    path("api/v1/instruments/<str:symbol>/trades", resource(exchange.ListTrades)),
    path("api/v1/instruments/<str:symbol>/candles", resource(exchange.ListCandles)),
    path("api/v1/instruments/<str:symbol>/deltas", resource(exchange.ListDeltas)),
    path("api/v1/instruments/<str:symbol>/auction", resource(exchange.ShowAuction)),
    path("api/v1/curve/<str:grade>", resource(exchange.ShowCurve)),
    path("api/v1/index/<str:grade>", resource(index_api.ListIndex)),
    path("api/v1/index/<str:grade>/<str:hour>", resource(index_api.ShowIndex)),
    path("api/v1/pools", resource(admission.ListPools)),
    path("api/v1/pools/<str:pool_id>/transparency", resource(admission.ShowTransparency)),
    path("api/v1/keys", resource(public.ListSigningKeys)),
    # Orders; writing them is answered beside Django, by exchange.entry
    path(
        "api/v1/orders",
        resource(orders.ListOrders, orders.PlaceOrder, orders.CancelOrders),
    ),
    path("api/v1/orders/batch", resource(orders.EnterBatch)),
    path("api/v1/orders/test", resource(orders.PreviewOrder)),
    path("api/v1/orders/cancel-all-after", resource(orders.CancelAllAfter)),
    path(
        "api/v1/orders/<str:order_id>",
        resource(orders.ShowOrder, orders.AmendOrder, orders.CancelOrder),
    ),
    path("api/v1/strips", resource(orders.PlaceStrip)),
    path("api/v1/strips/test", resource(orders.PreviewStrip)),
    # Account
    path("api/v1/account", resource(settlement.ShowAccount)),
    path("api/v1/positions", resource(settlement.ListPositions)),
    path("api/v1/fills", resource(orders.ListFills)),
    path("api/v1/ledger", resource(settlement.ListLedger)),
    path("api/v1/margin", resource(settlement.ShowMargin)),
    path("api/v1/entitlements", resource(settlement.ListEntitlements)),
    path("api/v1/usage", resource(admission.ShowUsage)),
    path("api/v1/receipts/heads", resource(receipts_api.ListHeads)),
    path("api/v1/receipts/leaves", resource(receipts_api.ListLeaves)),
    path("api/v1/receipts/proof", resource(receipts_api.ShowProof)),
    path("api/v1/receipts/consistency", resource(receipts_api.ShowConsistency)),
    path("api/v1/receipts/<str:receipt_id>", resource(admission.ShowReceipt)),
    path("api/v1/settlements", resource(settlement.ListSettlements)),
    path("api/v1/settlements/slots", resource(delivery_api.ListSlotSettlements)),
    path("api/v1/insurance", resource(settlement.ListInsurance)),
    path("api/v1/insurance/corrections", resource(delivery_api.ListInsuranceCorrections)),
    path("api/v1/deliveries", resource(delivery_api.ListDeliveries)),
    path("api/v1/deliveries/<str:delivery_id>", resource(delivery_api.ShowDelivery)),
    path("api/v1/deliveries/<str:delivery_id>/figures", resource(delivery_api.ReportFigure)),
    path("api/v1/disputes", resource(delivery_api.ListDisputes, delivery_api.OpenDispute)),
    path("api/v1/disputes/open", resource(rulings.ListOpenDisputes)),
    path(
        "api/v1/disputes/<str:dispute_id>",
        resource(delivery_api.ShowDispute, delivery_api.WithdrawDispute),
    ),
    path("api/v1/disputes/<str:decided_id>/decide", resource(rulings.DecideDispute)),
    path("api/v1/statements", resource(statements.ListStatements)),
    path("api/v1/statements/months", resource(statements.ListMonths)),
    path("api/v1/statements/<str:month>", resource(statements.ShowMonth)),
    path("api/v1/deposits", resource(account.RequestDeposit)),
    path("api/v1/withdrawals", resource(account.RequestWithdrawal)),
    path("api/v1/api-keys", resource(account.ListApiKeys, account.CreateApiKey)),
    path("api/v1/api-keys/<str:key_id>", resource(account.RevokeApiKey)),
    # Capacity
    path("api/v1/clusters", resource(capacity.ListClusters, capacity.RegisterCluster)),
    path("api/v1/clusters/<str:cluster_id>", resource(capacity.ShowCluster)),
    path("api/v1/clusters/<str:cluster_id>/certify", resource(capacity.CertifyCluster)),
    path(
        "api/v1/clusters/<str:cluster_id>/certifications/<str:certification_id>",
        resource(capacity.ShowCertification),
    ),
    path(
        "api/v1/clusters/<str:cluster_id>/cover",
        resource(cover.ListCoverOffers, cover.OfferCover),
    ),
    path(
        "api/v1/clusters/<str:cluster_id>/cover/<str:cover_offer_id>",
        resource(cover.WithdrawCover),
    ),
    path("api/v1/listings", resource(capacity.ListListings, capacity.ListCapacity)),
    path("api/v1/listings/<str:listing_id>", resource(capacity.WithdrawListing)),
    path(
        "api/v1/pools/purchase",
        resource(purchases.ListCommitments, purchases.CommitPurchase),
    ),
    path("api/v1/pools/purchase/open", resource(purchases.ListOpenPools)),
    path("api/v1/pools/purchase/<str:commitment_id>", resource(purchases.TakeCommitmentBack)),
    path(
        "api/v1/resale-instructions",
        resource(resale.ListResaleInstructions, resale.InstructResale),
    ),
    path("api/v1/resale-instructions/<str:instruction_id>", resource(resale.StopResale)),
    path("api/v1/packages", resource(packages.ListPackages, packages.OfferPackage)),
    path("api/v1/packages/bought", resource(packages.ListBoughtPackages)),
    path("api/v1/packages/bought/<str:bought_id>", resource(packages.ShowBoughtPackage)),
    path(
        "api/v1/packages/bought/<str:bought_id>/resell",
        resource(package_slices.ResellPackage),
    ),
    path("api/v1/packages/sold", resource(packages.ListSoldPackages)),
    path("api/v1/packages/slices", resource(package_slices.ListSlices)),
    path("api/v1/packages/slices/own", resource(package_slices.ListOwnSlices)),
    path("api/v1/packages/slices/own/<str:slice_id>", resource(package_slices.WithdrawSlice)),
    path("api/v1/packages/slices/<str:offered_slice_id>/buy", resource(package_slices.BuySlice)),
    path(
        "api/v1/packages/<str:offer_id>",
        resource(packages.ShowPackage, packages.WithdrawPackage),
    ),
    path("api/v1/packages/<str:offer_id>/quote", resource(packages.QuotePackage)),
    path("api/v1/packages/<str:offer_id>/buy", resource(packages.BuyPackage)),
    path("api/v1/transfers", resource(takeovers.ListOffers)),
    path("api/v1/transfers/bids", resource(takeovers.ListBids)),
    path("api/v1/transfers/bids/<str:bid_id>", resource(takeovers.WithdrawBid)),
    path("api/v1/transfers/<str:transfer_id>/bids", resource(takeovers.BidForOffer)),
    # Operators
    path("api/v1/instruments/<str:symbol>/halt", resource(operator.HaltInstrument)),
    path("api/v1/instruments/<str:symbol>/resume", resource(operator.ResumeInstrument)),
    path("api/v1/grades/<str:grade>/halt", resource(operator.HaltGrade)),
    path("api/v1/grades/<str:grade>/resume", resource(operator.ResumeGrade)),
    path("api/v1/market/halt", resource(operator.HaltMarket)),
    path("api/v1/market/resume", resource(operator.ResumeMarket)),
    path("api/v1/organizations/<str:organization_id>/kill", resource(operator.KillOrganization)),
    path("api/v1/index/<str:grade>/<str:hour>/override", resource(operator.OverrideIndex)),
    path("api/v1/operations", resource(control_room.ShowOperations)),
    path("api/v1/operations/defaults", resource(defaults.ShowDefaults)),
    path("api/v1/operations/layer", resource(defaults.SetLayer)),
    path("api/v1/operations/jobs/run-again", resource(control_room.RunJobAgain)),
    path("api/v1/operations/jobs/give-up", resource(control_room.GiveJobUp)),
    # A demo
    path("api/v1/demo/organizations", resource(demo.CreateDemoOrganization)),
    path("api/v1/demo/clock", resource(demo.AdvanceClock)),
    path("api/v1/demo/faults", resource(demo.SetFault)),
    # The document
    path("api/v1/schema", resource(schema.ShowSchema)),
    path("api/v1/docs", document.reader, name="api-docs"),
    re_path(r"^api/v1(?:/.*)?$", Nowhere.as_view()),
]

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    *API,
    path("", include("marketplace.urls")),
]

handler400 = "marketplace.views.shared.bad_request"
handler403 = "marketplace.views.shared.forbidden"
handler404 = "marketplace.views.shared.not_found"
handler500 = "marketplace.views.shared.server_error"
