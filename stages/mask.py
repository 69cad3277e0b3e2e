"""Decide the masked positions of every sequence."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.executor.dask import open_executor
from pipeline.text.mask import mask
from pipeline.text.params import MaskParams
from stages.command import Run, params_option, path_option, runtime_params, shard_threads, stage


@click.command()
@path_option("--documents", "Store of documents.")
@path_option("--sequences", "Store of sequences.")
@path_option("--out", "Store of masks to write.")
@params_option
@stage
def main(documents: Path, sequences: Path, out: Path, params_file: Path) -> None:
    """Choose whole words to mask, in all splits."""
    params = section(params_file, "mask", MaskParams)
    settings = runtime_params(params_file)
    with (
        Run("mask", __file__) as run,
        open_executor(settings, threads=shard_threads(settings), gpu=False, command=run.command) as (executor, _),
    ):
        manifest = mask(params, documents, sequences=sequences, out=out, executor=executor, workspace=run.workspace)
        counts = manifest.facts["counts"]
        run.add(**{key: sum(split[key] for split in counts.values()) for key in ("passes", "predictions")})


if __name__ == "__main__":
    main()
