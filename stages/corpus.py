"""Join all ingested texts into one corpus with three splits."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.corpus import assemble
from pipeline.text.params import CorpusParams, input_params
from stages.command import Run, params_option, path_option, stage


@click.command()
@path_option("--text", "Folder with one table of documents an input.")
@path_option("--out", "Store of documents to write.")
@params_option
@stage
def main(text: Path, out: Path, params_file: Path) -> None:
    """Draw the share, drop duplicates, split by document."""
    inputs, params = input_params(params_file), section(params_file, "corpus", CorpusParams)
    with Run("corpus", __file__) as run:
        facts = assemble(text, inputs, params, out, workspace=run.workspace).facts
        run.add(documents=sum(facts["documents"].values()), words=sum(facts["words"].values()))


if __name__ == "__main__":
    main()
