"""Join all ingested texts into one corpus with three splits."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.corpus import assemble
from pipeline.text.params import CorpusParams, input_params
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.option("--text", type=path, required=True, help="Folder with one table of documents an input.")
@click.option("--out", type=path, required=True, help="Store of documents to write.")
@params_option
@stage
def main(text: Path, out: Path, params: Path) -> None:
    """Draw the share, drop duplicates, split by document."""
    inputs = input_params(params)
    settings = section(params, "corpus", CorpusParams)
    record = RunRecord("corpus")
    manifest = assemble(text, inputs, settings, out, workspace=workspace(__file__))
    record.write(documents=sum(manifest.facts["documents"].values()), words=sum(manifest.facts["words"].values()))


if __name__ == "__main__":
    main()
