"""Join all ingested texts into one corpus with three splits."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.executor.dask import open_executor
from pipeline.text.documents.corpus import assemble
from pipeline.text.params import CorpusParams, input_params
from stages.command import Run, params_option, path_option, runtime_params, shard_threads, stage


@click.command()
@path_option("--text", "Folder with one table of documents an input.")
@path_option("--out", "Store of documents to write.")
@params_option
@stage
def main(text: Path, out: Path, params_file: Path) -> None:
    """Draw the share, drop duplicates, split by document, hold out nothing that is nearly in train."""
    inputs, params = input_params(params_file), section(params_file, "corpus", CorpusParams)
    settings = runtime_params(params_file)
    with (
        Run("corpus", __file__) as run,
        open_executor(settings, threads=shard_threads(settings), gpu=False, command=run.command) as (executor, _),
    ):
        facts = assemble(text, inputs, params, out, executor=executor, workspace=run.workspace).facts
        names = ("documents", "words", "duplicates", "near_duplicates")
        run.add(**{name: sum(facts[name].values()) for name in names})


if __name__ == "__main__":
    main()
