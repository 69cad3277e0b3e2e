"""Turn one input of params.yaml into a table of documents."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.corpus import ingest
from pipeline.text.params import InputParams
from stages.command import RunRecord, params_option, stage, workspace


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Table of documents to write.")
@params_option
@stage
def main(name: str, out: Path, params: Path) -> None:
    """Read the input NAME of params.yaml."""
    settings = section(params, f"inputs.{name}", InputParams)
    record = RunRecord(f"ingest-{name}")
    manifest = ingest(name, settings, out, workspace=workspace(__file__))
    record.write(**manifest.facts["counts"])


if __name__ == "__main__":
    main()
