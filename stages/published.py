"""Make a published student of its start and of what training changed."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.lexical.params import PublishedParams
from pipeline.lexical.weight_delta import unpack
from stages.command import Run, params_option, path_option, stage


@click.command()
@click.argument("name")
@path_option("--lexicon", "Store of the inventory.")
@path_option("--out", "Model folder to write.")
@params_option
@stage
def main(name: str, lexicon: Path, out: Path, params_file: Path) -> None:
    """Make published student NAME of params.yaml."""
    params = section(params_file, f"published.{name}", PublishedParams)
    with Run(f"published-{name}", __file__) as run:
        unpack(params, lexicon=lexicon, out=out, workspace=run.workspace)


if __name__ == "__main__":
    main()
