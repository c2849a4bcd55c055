"""Starts, finds again and stops the embedded PostgreSQL and Valkey of one data folder."""

import json
from pathlib import Path
from typing import NamedTuple


class Addresses(NamedTuple):
    """Where the servers of one data folder answer; empty strings when none were started."""

    database_url: str = ""
    valkey_url: str = ""
    broker_url: str = ""


def recorded(var: Path) -> Addresses:
    """Return the addresses recorded under `var`, whether or not the servers run now."""
    try:
        return Addresses(**json.loads((var / "servers.json").read_text()))
    except FileNotFoundError:
        return Addresses()
