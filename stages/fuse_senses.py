"""Average the soft labels of several lexical teachers into one store."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.lexical.params import SenseFusionParams
from pipeline.lexical.soft_labels import fuse_soft_labels
from stages.command import Run, params_option, path_option, stage


@click.command()
@click.argument("name")
@path_option("--soft-labels", "Folder of the teachers' stores.")
@path_option("--out", "Store to write.")
@params_option
@stage
def main(name: str, soft_labels: Path, out: Path, params_file: Path) -> None:
    """Make the soft labels NAME under `sense_fusions` of params.yaml."""
    params = section(params_file, f"sense_fusions.{name}", SenseFusionParams)
    with Run(f"fuse_senses-{name}", __file__) as run:
        run.add(words=fuse_soft_labels(params, soft_labels=soft_labels, out=out, workspace=run.workspace))


if __name__ == "__main__":
    main()
