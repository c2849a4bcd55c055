"""The cluster model's process: the model server, told by the database which clusters there are."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from admission import model_server

application = model_server.application
