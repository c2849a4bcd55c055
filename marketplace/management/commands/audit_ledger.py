"""Audits the journal, the ledgers and delivery, and says of every invariant whether it holds."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from marketplace import audit
from settlement import audit as settlement_audit


class Command(BaseCommand):
    """Prints one line per invariant; the exit status is 1 when one is violated."""

    help = "Check every invariant of the journal, the ledgers and delivery."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the options."""
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Check everything as of one instant and print what was found."""
        with settlement_audit.one_moment():
            findings = audit.run()
        violated = sum(1 for finding in findings if finding.violations)
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    {
                        "ok": not violated,
                        "checks": [
                            {
                                "name": finding.name,
                                "checked": finding.checked,
                                "violations": finding.violations,
                                "examples": list(finding.examples),
                            }
                            for finding in findings
                        ],
                    }
                )
            )
        else:
            width = max(len(finding.name) for finding in findings)
            for finding in findings:
                verdict = "VIOLATION" if finding.violations else "OK"
                self.stdout.write(
                    f"{finding.name:{width}}  {verdict:9}  {finding.checked:>10} checked"
                    f"  {finding.violations:>6} wrong"
                )
                for example in finding.examples:
                    self.stdout.write(f"    {example}")
            self.stdout.write(
                f"{violated} of {len(findings)} invariants violated"
                if violated
                else f"all {len(findings)} invariants hold"
            )
        if violated:
            raise SystemExit(1)
