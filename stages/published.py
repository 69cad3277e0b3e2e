"""Make a published student of its start and of what training changed."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.lexical.params import PublishedParams
from pipeline.lexical.weight_delta import unpack
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--lexicon", type=path, required=True, help="Store of the inventory.")
@click.option("--out", type=path, required=True, help="Model folder to write.")
@params_option
@stage
def main(name: str, lexicon: Path, out: Path, params: Path) -> None:
    """Make published student NAME of params.yaml."""
    record = RunRecord(f"published-{name}")
    unpack(
        section(params, f"published.{name}", PublishedParams), lexicon=lexicon, out=out, workspace=workspace(__file__)
    )
    record.write()


if __name__ == "__main__":
    main()
