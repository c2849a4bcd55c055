"""The pages and where they are."""

from django.urls import URLPattern, path

from marketplace.views import (
    capacity,
    control_room,
    instrument,
    markets,
    people,
    portfolio,
    tickets,
)

urlpatterns: list[URLPattern] = [
    path("", markets.home),
    path("markets", markets.markets),
    path("markets/<str:symbol>", instrument.page),
    path("curve/<str:grade>", markets.curve),
    path("index", markets.index),
    path("index/<str:grade>/<str:hour>", markets.index_hour),
    path("transparency", markets.transparency),
    path("transparency/<uuid:public_id>", markets.pool),
    path("ticket", tickets.ticket),
    path("orders/cancel", tickets.cancel),
    path("orders/amend", tickets.amend),
    path("orders/cancel-all", tickets.cancel_all),
    path("portfolio", portfolio.portfolio),
    path("portfolio/deposit", portfolio.deposit),
    path("portfolio/statements", portfolio.statement),
    path("portfolio/statements.csv", portfolio.statement_csv),
    path("entitlements", capacity.entitlements),
    path("keys", capacity.keys),
    path("keys/revoke", capacity.revoke_key),
    path("sell", capacity.sell),
    path("sell/register", capacity.register),
    path("sell/certify", capacity.certify),
    path("sell/certifications/<int:certification_id>", capacity.certification),
    path("sell/list", capacity.list_capacity),
    path("sell/withdraw", capacity.withdraw),
    path("operations", control_room.page),
    path("operations/run-again", control_room.run_again),
    path("operations/give-up", control_room.give_up),
    path("signup", people.sign_up),
    path("login", people.log_in),
    path("logout", people.log_out),
    path("organization", people.choose_organization),
]
