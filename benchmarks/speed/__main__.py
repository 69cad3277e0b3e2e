"""Measure every row, or those named, and merge the results into reports/bench.json and reports/bench.md."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.speed.harness import Machine, Row, Unavailable, accelerator, entries, failed, processor, save, table

MODULES = ("teach", "topk", "fuse", "train", "memory", "online", "noop", "share", "formats", "processes", "against")
"""Of benchmarks.speed, each with ROWS; in the order of the table."""

log = logging.getLogger(__name__)


def all_rows() -> list[Row]:
    """Every row of every module."""
    rows: list[Row] = []
    for module in MODULES:
        rows += importlib.import_module(f"benchmarks.speed.{module}").ROWS
    return rows


def run(rows: Sequence[Row], *, cpu: Machine, gpu: Machine | None) -> list[dict[str, Any]]:
    """Measure the rows this machine has a device for; one that fails says why, and the others go on."""
    found: list[dict[str, Any]] = []
    for row in rows:
        machine = {"cpu": cpu, "cuda": gpu, "any": gpu or cpu}[row.device]
        if machine is None:
            log.info("%s: left out, there is no accelerator", row.name)
            continue
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder:
                made = entries(row, machine, row.measure(machine, Path(folder)))
        except Unavailable as error:
            made = [failed(row, machine, error)]
        except Exception as error:
            log.exception("%s failed", row.name)
            made = [failed(row, machine, error)]
        found += made
        log.info("%s: %s, goal %s, %.0f s", row.name, made[0]["measured"], row.goal, time.perf_counter() - start)
    return found


@click.command()
@click.option("--only", multiple=True, help="A row's name, or the beginning of several; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/bench.json"), show_default=True)
@click.option("--gpu", is_flag=True, help="Only rows that an accelerator is measured by.")
@click.option("--list", "listing", is_flag=True, help="Name the rows and stop.")
def main(only: tuple[str, ...], out: Path, gpu: bool, listing: bool) -> None:
    """Measure and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = [row for row in all_rows() if not only or row.name.startswith(only)]
    if gpu:
        rows = [row for row in rows if row.device != "cpu"]
    if not rows:
        raise click.UsageError(f"no row begins with {', '.join(only)}; --list names them")
    if listing:
        click.echo("\n".join(row.name for row in rows))
        return
    found = run(rows, cpu=processor(), gpu=accelerator())
    click.echo(table(save(found, out)))
    if any(item["measured"] is None for item in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
