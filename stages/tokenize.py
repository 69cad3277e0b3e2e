"""Cut the documents into sequences of the students' vocabulary."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.executor.dask import open_executor
from pipeline.text.params import TokenizeParams
from pipeline.text.tokenize import tokenize
from stages.command import Run, params_option, path_option, runtime_params, shard_threads, stage


@click.command()
@path_option("--documents", "Store of documents.")
@path_option("--out", "Store of sequences to write.")
@params_option
@stage
def main(documents: Path, out: Path, params_file: Path) -> None:
    """Tokenize all splits."""
    params = section(params_file, "tokenize", TokenizeParams)
    settings = runtime_params(params_file)
    with (
        Run("tokenize", __file__) as run,
        open_executor(settings, threads=shard_threads(settings), gpu=False, command=run.command) as (executor, _),
    ):
        manifest = tokenize(params, documents, out=out, executor=executor, workspace=run.workspace)
        counts = manifest.facts["counts"]
        run.add(**{key: sum(split[key] for split in counts.values()) for key in ("sequences", "tokens", "words")})


if __name__ == "__main__":
    main()
