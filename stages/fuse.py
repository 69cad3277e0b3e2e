"""Fuse teachers' predictions into one store of targets."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import load, section
from pipeline.executor.dask import open_executor
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.text.corpus_view import MaskedSequences
from stages.command import (
    STORE,
    STORES,
    Run,
    out_option,
    params_option,
    path_option,
    runtime_params,
    sequences_options,
    shard_threads,
    stage,
)
from storage.share.remote import outlet


@click.command()
@click.argument("name")
@sequences_options
@path_option("--logits", "Folder of the teachers' stores, or its URL.", type=STORES)
@path_option(
    "--documents", "Store of documents; opened where weights depend on sources of text.", required=False, type=STORE
)
@out_option("Store of targets")
@params_option
@stage
def main(
    name: str, sequences: Path, masks: Path, logits: Path, documents: Path | None, out: str, params_file: Path
) -> None:
    """Make the fused targets NAME of params.yaml."""
    params = section(params_file, f"fusions.{name}", FusionParams)
    settings = runtime_params(params_file)
    with (
        Run(f"fuse-{name}", __file__) as run,
        open_executor(settings, threads=shard_threads(settings), gpu=False, command=run.command) as (executor, _),
        outlet(out) as folder,
    ):
        manifest = fuse(
            params,
            MaskedSequences.open_pair(sequences, masks),
            logits=logits,
            documents=documents,
            out=folder,
            declared=load(params_file).get("teachers") or (),
            executor=executor,
            workspace=run.workspace,
        )
        run.add(predictions=sum(plan.rows for plan in manifest.splits.values()))


if __name__ == "__main__":
    main()
