"""Django's entry for the app."""

from django.apps import AppConfig


class AdmissionConfig(AppConfig):
    """Registers `admission`."""

    name = "admission"
    default_auto_field = "django.db.models.BigAutoField"
