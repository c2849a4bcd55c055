"""`python -m benchmarks [NAME ...]`: run some benchmarks, or all of them."""

import importlib
import os
import sys

from benchmarks import report

NAMES = (
    "admission",
    "batch",
    "core",
    "fees",
    "kill",
    "ledger",
    "machine",
    "mark",
    "market",
    "metering",
    "orders",
    "recovery",
    "statements",
    "stuffing",
    "usage",
)
"""Every benchmark there is; each is a module with `run() -> report.Result`."""


def main(names: list[str]) -> int:
    """Run the named benchmarks; returns an exit status."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"No such benchmark: {', '.join(unknown)}. There are: {', '.join(NAMES)}.")
        return 2
    for name in names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        if getattr(module, "NEEDS_DATA", False) and not os.environ.get("BASELOAD_DATA"):
            print(f"{name}: skipped, BASELOAD_DATA is not set")
            continue
        report.publish(module.run())
    return 0


if __name__ == "__main__":
    sys.exit(main([name for name in sys.argv[1:] if name]))
