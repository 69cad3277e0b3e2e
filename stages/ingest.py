"""Turn one input of params.yaml into a table of documents."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.executor.dask import open_executor
from pipeline.text.documents.ingest import ingest
from pipeline.text.params import InputParams
from stages.command import Run, params_option, path_option, runtime_params, shard_threads, stage


@click.command()
@click.argument("name")
@path_option("--out", "Table of documents to write.")
@params_option
@stage
def main(name: str, out: Path, params_file: Path) -> None:
    """Read the input NAME of params.yaml."""
    params = section(params_file, f"inputs.{name}", InputParams)
    settings = runtime_params(params_file)
    with (
        Run(f"ingest-{name}", __file__) as run,
        open_executor(settings, threads=shard_threads(settings), gpu=False, command=run.command) as (executor, _),
    ):
        manifest = ingest(name, params, out, executor=executor, workspace=run.workspace)
        skipped = manifest.facts.get("skipped_files", {})
        run.add(**manifest.facts["counts"], skipped_files=sum(skipped.values()))


if __name__ == "__main__":
    main()
