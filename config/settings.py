"""Django's settings: one file, every value from the environment or from the run's own folder.

A deployment is `demo` or `production`, and it never changes. A demo needs nothing: it finds the
embedded servers and the secrets that `make run` recorded under `BASELOAD_VAR`, listens on the
loopback interface only and has a clock that can be advanced. Production is given its database,
its broker, its secrets and its public origin, and refuses to start without them.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured

from config import servers
from marketplace import clock

django_stubs_ext.monkeypatch()  # Django's generic classes take their parameters at run time

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("BASELOAD_VAR") or BASE_DIR / "var").resolve()

# Deployment

DEPLOYMENT = os.environ.get("DEPLOYMENT", "demo")
if DEPLOYMENT not in ("demo", "production"):
    raise ImproperlyConfigured("DEPLOYMENT is demo or production")
IS_DEMO = DEPLOYMENT == "demo"
DEBUG = False

DEMO_SECRET = "a demo's secret, worth nothing outside its own machine"  # noqa: S105


def _stored_secrets() -> dict[str, str]:
    """Return the secrets that `make run` made for this folder; none in production."""
    path = VAR / "secrets.json"
    if not IS_DEMO or not path.is_file():
        return {}
    stored: dict[str, str] = json.loads(path.read_text())
    return stored


def _secret(name: str) -> str:
    """Return a secret from the environment or the run's folder; production has no default."""
    value = os.environ.get(name) or _stored_secrets().get(name) or (DEMO_SECRET if IS_DEMO else "")
    if not IS_DEMO and (len(value) < 32 or value == DEMO_SECRET):
        raise ImproperlyConfigured(f"{name} must be given in production, at least 32 characters")
    return value


SECRET_KEY = _secret("SECRET_KEY")
RECEIPTS_SECRET = _secret("RECEIPTS_SECRET")
"""What the root key of receipts is made of; it signs nothing else."""
KEY_PEPPER = _secret("KEY_PEPPER")
"""Keys an HMAC over API keys, so that a dump of the database holds no usable key."""

# Addresses

WEB_PORT = int(os.environ.get("WEB_PORT", "8000"))
GATEWAY_PORT = int(os.environ.get("GATEWAY_PORT", "8080"))
CLUSTER_PORT = int(os.environ.get("CLUSTER_PORT", "8090"))
BIND_ADDRESS = "127.0.0.1" if IS_DEMO else os.environ.get("BIND_ADDRESS", "127.0.0.1")

PUBLIC_ORIGIN = os.environ.get("PUBLIC_ORIGIN", f"http://127.0.0.1:{WEB_PORT}")
"""What links in mail and signatures are built from; never a request's Host header."""
GATEWAY_ORIGIN = os.environ.get("GATEWAY_ORIGIN", f"http://127.0.0.1:{GATEWAY_PORT}")
CLUSTER_ORIGIN = os.environ.get("CLUSTER_ORIGIN", f"http://127.0.0.1:{CLUSTER_PORT}")
if not IS_DEMO and not PUBLIC_ORIGIN.startswith("https://"):
    raise ImproperlyConfigured("PUBLIC_ORIGIN must be an https:// origin in production")

ALLOWED_HOSTS = [
    host
    for host in {
        *os.environ.get("ALLOWED_HOSTS", "").split(","),
        urlsplit(PUBLIC_ORIGIN).hostname or "",
        *(("localhost", "127.0.0.1", "[::1]") if IS_DEMO else ()),
    }
    if host
]
CSRF_TRUSTED_ORIGINS = [PUBLIC_ORIGIN]
UPSTREAM_ALLOW = [host for host in os.environ.get("UPSTREAM_ALLOW", "").split(",") if host]
"""Hosts or networks, besides public ones, that the gateway may call as upstreams."""

# Applications

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "csp",
    "settlement",
    "exchange",
    "admission",
    "marketplace",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
APPEND_SLASH = False
AUTH_USER_MODEL = "marketplace.User"
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/portfolio"
LOGOUT_REDIRECT_URL = "/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# PostgreSQL and Valkey

_recorded = servers.recorded(VAR)


def _address(name: str, recorded: str) -> str:
    """Return a server's address: the environment's, else the embedded server's."""
    given = os.environ.get(name) or recorded
    if not given and not IS_DEMO:
        raise ImproperlyConfigured(f"{name} must be given in production")
    return given


DATABASE_URL = _address("DATABASE_URL", _recorded.database_url)
VALKEY_URL = _address("VALKEY_URL", _recorded.valkey_url)
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or (
    _recorded.broker_url or VALKEY_URL.replace("valkey", "redis", 1)
)
DATABASE_ROLE = os.environ.get("DATABASE_ROLE", "")
"""The role that every process takes after connecting; migrations run without, as the owner."""

DATABASE_POOL_SIZE_MAX = int(os.environ.get("DATABASE_POOL_SIZE_MAX", "6"))
DATABASE_CONNECT_TIMEOUT_S = 2


def _database(url: str) -> dict[str, Any]:
    """Return Django's description of the database at `url`."""
    parts = urlsplit(url)
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    host = options.pop("host", "") or parts.hostname or ""
    options["connect_timeout"] = DATABASE_CONNECT_TIMEOUT_S
    if DATABASE_ROLE:
        options["options"] = f"-c role={DATABASE_ROLE}"
    if DATABASE_POOL_SIZE_MAX:
        options["pool"] = {
            "min_size": 0,
            "max_size": DATABASE_POOL_SIZE_MAX,
            "timeout": DATABASE_CONNECT_TIMEOUT_S,
            "max_idle": 60,
            "num_workers": 1,
        }
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "baseload",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


DATABASES = {"default": _database(DATABASE_URL)}

# Time and language

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
if IS_DEMO and VAR.is_dir():
    clock.open_offset(VAR / "clock")

# Sessions, cookies and headers

SESSION_ENGINE = "django.contrib.sessions.backends.db"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "marketplace.views.shared.csrf_failure"
# Browsers and programs drop Secure cookies on the demo's plain http://127.0.0.1.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_ORIGIN.startswith("https://")
SECURE_HSTS_SECONDS = 0 if IS_DEMO else 31_536_000
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    },
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576
DATA_UPLOAD_MAX_NUMBER_FIELDS = 200

# Static files

STATIC_URL = "/static/"
# A demo serves static files from where they lie; production collects them first.
STATIC_ROOT = None if IS_DEMO else Path(os.environ.get("STATIC_ROOT") or BASE_DIR / "staticfiles")
WHITENOISE_USE_FINDERS = IS_DEMO
WHITENOISE_MAX_AGE = 0 if IS_DEMO else 3600
_STATIC_BACKEND = (
    "django.contrib.staticfiles.storage.StaticFilesStorage"
    if IS_DEMO
    else "whitenoise.storage.CompressedManifestStaticFilesStorage"
)
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": _STATIC_BACKEND},
}

# REST: the rest is marketplace's, plugged in by config/rest.py

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "config.rest.KeyAuthentication",
        "config.rest.MemberAuthentication",
    ],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "config.rest.JsonOnly",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "config.rest.handle_exception",
    "UNAUTHENTICATED_USER": None,
}

# Logs

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"()": "config.logs.Formatter"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": sys.stderr},
    },
    "root": {"handlers": ["stderr"], "level": os.environ.get("LOG_LEVEL", "INFO").upper()},
    "loggers": {
        "django": {"handlers": [], "level": "WARNING", "propagate": True},
        "django.request": {"level": "ERROR"},
        "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
        "celery": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        "asyncio": {"level": "WARNING"},
        "uvicorn": {"level": "WARNING"},
        "psycopg": {"level": "ERROR"},
    },
}
