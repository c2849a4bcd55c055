"""What the environment makes of the settings, each in an interpreter of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCTION = {
    "DEPLOYMENT": "production",
    "SECRET_KEY": "s" * 50,
    "KEY_PEPPER": "p" * 50,
    "RECEIPTS_SECRET": "r" * 50,
    "PUBLIC_ORIGIN": "https://exchange.example",
    "DATABASE_URL": "postgresql://app:pw@db.example:6432/market?sslmode=require",
    "VALKEY_URL": "valkey://:pw@queue.example:6379/0",
}
PRINT = """
import json
from django.conf import settings
database = settings.DATABASES["default"]
print(json.dumps({
    "database": [database["HOST"], database["PORT"], database["NAME"], database["USER"]],
    "options": database["OPTIONS"],
    "broker": settings.CELERY_BROKER_URL,
    "hosts": sorted(settings.ALLOWED_HOSTS),
    "secure": [settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE],
    "bind": settings.BIND_ADDRESS,
}))
"""


def load(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "BASELOAD_VAR": str(tmp_path),
            **environment,
        },
    )


def test_production_takes_its_servers_its_role_and_its_origin(tmp_path: Path) -> None:
    loaded = load(tmp_path, **PRODUCTION, DATABASE_ROLE="baseload_app", DATABASE_POOL_SIZE_MAX="0")
    assert json.loads(loaded.stdout) == {
        "database": ["db.example", "6432", "market", "app"],
        "options": {
            "sslmode": "require",
            "connect_timeout": 2,
            "options": "-c role=baseload_app",
        },
        "broker": "redis://:pw@queue.example:6379/0",
        "hosts": ["exchange.example"],
        "secure": [True, True],
        "bind": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY must be given in production"),
        ({"KEY_PEPPER": "short"}, "KEY_PEPPER must be given in production"),
        ({"RECEIPTS_SECRET": ""}, "RECEIPTS_SECRET must be given in production"),
        ({"PUBLIC_ORIGIN": "http://exchange.example"}, "PUBLIC_ORIGIN must be an https:// origin"),
        ({"DATABASE_URL": ""}, "DATABASE_URL must be given in production"),
        ({"VALKEY_URL": ""}, "VALKEY_URL must be given in production"),
        ({"DEPLOYMENT": "staging"}, "DEPLOYMENT is demo or production"),
    ],
)
def test_production_refuses_to_start_without(
    tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    loaded = load(tmp_path, **(PRODUCTION | changed))
    assert loaded.returncode == 1
    assert said in loaded.stderr


def test_production_does_not_take_a_demos_secrets(tmp_path: Path) -> None:
    stored = {"SECRET_KEY": "d" * 50, "KEY_PEPPER": "d" * 50}
    (tmp_path / "secrets.json").write_text(json.dumps(stored))
    loaded = load(tmp_path, **(PRODUCTION | {"SECRET_KEY": ""}))
    assert "SECRET_KEY must be given in production" in loaded.stderr


def test_a_demo_binds_loopback_whatever_it_is_told(tmp_path: Path) -> None:
    loaded = load(tmp_path, BIND_ADDRESS="0.0.0.0")
    said = json.loads(loaded.stdout)
    assert said["bind"] == "127.0.0.1"
    assert said["hosts"] == ["127.0.0.1", "[::1]", "localhost"]
