"""Django's entry for the app."""

from django.apps import AppConfig


class ExchangeConfig(AppConfig):
    """Registers `exchange`."""

    name = "exchange"
    default_auto_field = "django.db.models.BigAutoField"
