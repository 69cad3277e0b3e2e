"""Put all evaluations into one summary, a page and plots.

It writes no run record of its own: the records are among its inputs, and a file it adds there would look like a change.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import load, section
from pipeline.evaluate.params import EvaluateParams
from pipeline.report.summary import Names, write_report
from stages.command import params_option, stage

path = click.Path(path_type=Path)


@click.command()
@click.option(
    "--reports",
    type=path,
    default=Path("reports"),
    show_default=True,
    help="Folder with the evaluations and the run records.",
)
@click.option(
    "--out", type=path, default=Path("reports"), show_default=True, help="Folder for summary.json, report.md and plots."
)
@params_option
@stage
def main(reports: Path, out: Path, params: Path) -> None:
    """Report on all teachers, fusions and students of params.yaml."""
    settings = section(params, "evaluate", EvaluateParams)
    write_report(settings, Names.of(load(params)), reports=reports, out=out)


if __name__ == "__main__":
    main()
