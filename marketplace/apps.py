"""Django's entry for the app."""

from django.apps import AppConfig


class MarketplaceConfig(AppConfig):
    """Registers `marketplace`."""

    name = "marketplace"
    default_auto_field = "django.db.models.BigAutoField"
