"""Fuse teachers' beliefs into one store of targets."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.core.config import load, section
from pipeline.core.params import RuntimeParams
from pipeline.executor.dask import open_executor
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--logits", type=path, required=True, help="Folder of the teachers' stores.")
@click.option("--out", type=path, required=True, help="Store of targets to write.")
@params_option
@stage
def main(name: str, sequences: Path, masks: Path, logits: Path, out: Path, params: Path) -> None:
    """Make the fused targets NAME of params.yaml."""
    fusion = section(params, f"fusions.{name}", FusionParams)
    settings = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"fuse-{name}")
    threads = settings.threads or os.cpu_count() or 1
    with open_executor(settings, threads=threads, gpu=False, command="fuse") as (who, _):
        manifest = fuse(
            fusion,
            sequences=sequences,
            masks=masks,
            logits=logits,
            out=out,
            declared=load(params).get("teachers") or (),
            threads=threads,
            executor=who,
            workspace=workspace(__file__),
        )
    record.write(predictions=sum(plan.rows for plan in manifest.splits.values()))


if __name__ == "__main__":
    main()
