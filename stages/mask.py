"""Decide the blanks of every window."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.masking import mask
from pipeline.text.params import MaskParams
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--out", type=path, required=True, help="Store of masks to write.")
@params_option
@stage
def main(documents: Path, sequences: Path, out: Path, params: Path) -> None:
    """Choose whole words to blank, in all splits."""
    settings = section(params, "mask", MaskParams)
    record = RunRecord("mask")
    manifest = mask(settings, documents, sequences=sequences, out=out, workspace=workspace(__file__))
    counts = manifest.facts["counts"]
    record.write(**{key: sum(split[key] for split in counts.values()) for key in ("passes", "predictions")})


if __name__ == "__main__":
    main()
