"""A log line never shows a key, whatever road the key took into it."""

import logging

import pytest

from config import logs

KEY = "bl_live_7Q2M4_c2VjcmV0LXBhcnQtb2YtYS1rZXk"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"refused {KEY}", "refused bl_live_7Q2M4_..."),
        (f"headers: Authorization: Bearer {KEY}", "headers: Authorization: Bearer ..."),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic ..."),
        ("redis://:hunter2@127.0.0.1:6379/1 is away", "redis://:...@127.0.0.1:6379/1 is away"),
        ("postgresql://app:s3cret@db/baseload", "postgresql://app:...@db/baseload"),
        ("http://127.0.0.1:8000/markets is up", "http://127.0.0.1:8000/markets is up"),
        ("bl_demo_ begins a demo's keys", "bl_demo_ begins a demo's keys"),
    ],
)
def test_the_secret_part_is_blotted_out_and_the_rest_is_kept(text: str, shown: str) -> None:
    assert logs.redact(text) == shown


def test_a_traceback_is_blotted_out_too() -> None:
    try:
        raise ValueError(f"no organization for {KEY}")
    except ValueError as error:
        caught = (type(error), error, error.__traceback__)
    record = logging.LogRecord("keys", logging.ERROR, __file__, 1, "for %s", (KEY,), caught)

    line = logs.Formatter().format(record)

    assert "c2VjcmV0" not in line
    assert line.startswith("ERROR keys: for bl_live_7Q2M4_...")
    assert "ValueError: no organization for bl_live_7Q2M4_..." in line
