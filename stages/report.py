"""Put all evaluations into one summary, a page and plots.

It writes no run record of its own: the records are among its inputs, and a file it adds there would look like a change.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import load, section
from pipeline.evaluate.params import EvaluateParams
from pipeline.report.summary import Names, write_report
from stages.command import params_option, path_option, stage


@click.command()
@path_option("--reports", "Folder with the evaluations and the run records.", required=False, default=Path("reports"))
@path_option("--out", "Folder for summary.json, report.md and plots.", required=False, default=Path("reports"))
@params_option
@stage
def main(reports: Path, out: Path, params_file: Path) -> None:
    """Report on all teachers, fusions and students of params.yaml."""
    params = section(params_file, "evaluate", EvaluateParams)
    write_report(params, Names.of(load(params_file)), reports=reports, out=out)


if __name__ == "__main__":
    main()
