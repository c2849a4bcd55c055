"""The cluster model's process: the model server, told by the database which clusters there are."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from django.db import connection

from admission import model_server, queries
from admission.live_cluster import ClusterConfig


def _load_clusters() -> list[tuple[str, ClusterConfig]]:
    """Return the clusters there are, and leave no session open in this thread."""
    try:
        return queries.modelled_clusters()
    finally:
        connection.close()


application = model_server.application
application.load_clusters = _load_clusters
