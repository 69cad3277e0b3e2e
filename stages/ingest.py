"""Turn one input of params.yaml into a table of documents."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.corpus import ingest
from pipeline.text.params import InputParams
from stages.command import Run, params_option, path_option, stage


@click.command()
@click.argument("name")
@path_option("--out", "Table of documents to write.")
@params_option
@stage
def main(name: str, out: Path, params_file: Path) -> None:
    """Read the input NAME of params.yaml."""
    params = section(params_file, f"inputs.{name}", InputParams)
    with Run(f"ingest-{name}", __file__) as run:
        run.add(**ingest(name, params, out, workspace=run.workspace).facts["counts"])


if __name__ == "__main__":
    main()
