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
from admission.calibration import CALIBRATIONS, GROUP_POINTS_MIN, Calibration

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
        groups: dict[Group, list[measured.ServingPoint]] = defaultdict(list)
        for point in measured.read_points(path):
            groups[point.group].append(point)
        kept = {g: p for g, p in sorted(groups.items()) if len(p) >= GROUP_POINTS_MIN}
        constants = CALIBRATIONS
        if options["fit"]:
            constants = {group: _fit(points) for group, points in kept.items()}
            for group, by in constants.items():
                self.stdout.write(f"    {group}: {by},")
        self._print_table(kept, constants)

    def _print_table(
        self,
        groups: dict[Group, list[measured.ServingPoint]],
        constants: dict[Group, Calibration],
    ) -> None:
        """Print one line per configuration and the medians over all points."""
        write = self.stdout.write
        write(
            "| stack | accelerator | model | precision | TP | fitted | error | held out | error |"
        )
        write("|---|---|---|---|---|---|---|---|---|")
        fitted: list[float] = []
        held_out: list[float] = []
        for group, points in groups.items():
            by = constants[group]
            rows: dict[tuple[str, str, int], list[measured.ServingPoint]] = defaultdict(list)
            for point in points:
                shape = point.cluster
                rows[shape.model, shape.precision, shape.tensor_parallel].append(point)
            for (model, precision, parallel), row in sorted(rows.items()):
                near = [point.error(by) for point in row if not point.held_out]
                far = [point.error(by) for point in row if point.held_out]
                fitted += near
                held_out += far
                write(
                    f"| {group[0]} | {group[1]} | {model} | {precision} | {parallel} "
                    f"| {len(near)} | {_percent(near)} | {len(far)} | {_percent(far)} |"
                )
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
