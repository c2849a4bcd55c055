"""The gateway process: admission's OpenAI-compatible data plane, and nothing else."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from admission import gateway

application = gateway.application
