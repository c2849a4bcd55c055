"""`manage.py fit_cluster_model`: how far the cluster model is from measured servers.

Prints the median error of the time per output token for every measured configuration, on the points
its constants were fitted to and on those that were held out. With `--fit` it fits the constants
anew and prints them in the form in which they stand in `admission/calibration.py`.
"""

import os
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path
from statistics import median

from django.core.management.base import BaseCommand, CommandError

from admission import measured
from admission.calibration import CALIBRATIONS, Calibration

Group = tuple[str, str, str]


class Command(BaseCommand):
    """Print the error table of the cluster model."""

    help = "Compare the cluster model with the measured serving points under BASELOAD_DATA."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--fit", action="store_true", help="fit the constants anew")
        parser.add_argument("--points", type=Path, help="a serving_points.csv.gz of its own")

    def handle(self, *_: object, **options: object) -> None:
        """Read, fit when asked, print."""
        path = options["points"] or _default_path()
        assert isinstance(path, Path), "argparse makes paths"
        points = measured.read_points(path)
        constants = CALIBRATIONS
        if options["fit"]:
            groups = measured.groups(points)
            constants = {key: _fit(members) for key, members in groups.items()}
            for key, by in constants.items():
                self.stdout.write(f"    {key}: {by},")
        self._print_table([each for each in points if each.group in constants], constants)

    def _print_table(
        self, points: list[measured.ServingPoint], constants: dict[Group, Calibration]
    ) -> None:
        """Print one line per configuration and the medians over all points."""
        write = self.stdout.write
        write(
            "| stack | accelerator | model | precision | TP | fitted | error | held out | error |"
        )
        write("|---|---|---|---|---|---|---|---|---|")
        fitted: list[float] = []
        held_out: list[float] = []
        rows: dict[tuple[str, str, str, str, int], list[measured.ServingPoint]] = defaultdict(list)
        for point in points:
            of = point.cluster
            key = (of.stack, of.accelerator, of.model, of.precision, of.tensor_parallel)
            rows[key].append(point)
        for key, row in sorted(rows.items()):
            own = constants.get((key[0], key[1], key[2]))
            by = own or constants[row[0].group]
            near = [point.error(by) for point in row if not point.held_out]
            far = [point.error(by) for point in row if point.held_out]
            fitted += near
            held_out += far
            names = " | ".join(map(str, key))
            write(f"| {names} | {len(near)} | {_percent(near)} | {len(far)} | {_percent(far)} |")
        write("")
        write(f"fitted: {len(fitted)} points, median error {_percent(fitted)}")
        write(f"held out: {len(held_out)} points, median error {_percent(held_out)}")


def _fit(points: list[measured.ServingPoint]) -> Calibration:
    return measured.fit([point for point in points if not point.held_out])


def _percent(errors: list[float]) -> str:
    return f"{100 * median(errors):.1f} %" if errors else "-"


def _default_path() -> Path:
    root = os.environ.get("BASELOAD_DATA")
    if not root:
        raise CommandError("Set BASELOAD_DATA to the folder of the public data sets.")
    return Path(root) / "aiconfigurator" / "serving_points.csv.gz"
