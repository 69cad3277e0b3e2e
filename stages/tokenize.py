"""Cut the documents into windows of the students' vocabulary."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.params import TokenizeParams
from pipeline.text.tokenize import tokenize
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--out", type=path, required=True, help="Store of sequences to write.")
@params_option
@stage
def main(documents: Path, out: Path, params: Path) -> None:
    """Tokenize all splits."""
    settings = section(params, "tokenize", TokenizeParams)
    record = RunRecord("tokenize")
    manifest = tokenize(settings, documents, out=out, workspace=workspace(__file__))
    counts = manifest.facts["counts"]
    record.write(**{key: sum(split[key] for split in counts.values()) for key in ("sequences", "tokens", "words")})


if __name__ == "__main__":
    main()
