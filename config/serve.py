"""Runs one of the three HTTP servers under uvicorn, with its limits named.

python -m config.serve web|gateway|cluster
"""

import os
import sys

import django
import uvicorn

from config.guarded_http import GuardedHttp
from config.guarded_websocket import GuardedWebSocket

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

APPLICATIONS = {
    "web": "config.asgi:application",
    "gateway": "config.gateway_asgi:application",
    "cluster": "config.cluster_asgi:application",
}
CONNECTIONS_MAX = 2_000
"""Connections and running requests of one process; beyond them the answer is 503."""
BACKLOG = 2_048
KEEP_ALIVE_S = 30
SHUTDOWN_S = 4
WEBSOCKET_MESSAGE_BYTES_MAX = 65_536
WEBSOCKET_QUEUE_MAX = 32
WEBSOCKET_PING_S = 20


def main() -> int:
    """Serve what the command line names until the process is told to stop."""
    from django.conf import settings

    ports = {
        "web": settings.WEB_PORT,
        "gateway": settings.GATEWAY_PORT,
        "cluster": settings.CLUSTER_PORT,
    }
    if len(sys.argv) != 2 or sys.argv[1] not in APPLICATIONS:
        print("python -m config.serve web|gateway|cluster", file=sys.stderr)
        return 2
    name = sys.argv[1]
    django.setup()
    from django.db import connection

    from marketplace import operations

    operations.claim_deployment()
    connection.close()
    uvicorn.run(
        APPLICATIONS[name],
        host=settings.BIND_ADDRESS,
        port=ports[name],
        loop="uvloop",
        http=GuardedHttp,
        ws=GuardedWebSocket,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ws_max_size=WEBSOCKET_MESSAGE_BYTES_MAX,
        ws_max_queue=WEBSOCKET_QUEUE_MAX,
        ws_ping_interval=WEBSOCKET_PING_S,
        ws_ping_timeout=WEBSOCKET_PING_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
