"""Django's entry for the app."""

from django.apps import AppConfig


class SettlementConfig(AppConfig):
    """Registers `settlement`."""

    name = "settlement"
    default_auto_field = "django.db.models.BigAutoField"
