"""Run one teacher over the corpus and write what it believes at every blank."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.executor.dask import open_executor
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--out", type=path, required=True, help="Store of logits to write.")
@params_option
@stage
def main(name: str, documents: Path, sequences: Path, masks: Path, out: Path, params: Path) -> None:
    """Ask teacher NAME of params.yaml for its beliefs."""
    teacher = section(params, f"teachers.{name}", TeacherParams)
    settings = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"teach-{name}")
    with open_executor(settings, threads=1, gpu=True, command="teach") as (who, settings):
        device, dtype = runtime.apply(settings)
        manifest = teach(
            teacher,
            documents=documents,
            sequences=sequences,
            masks=masks,
            out=out,
            device=device,
            dtype=dtype,
            batch_tokens=settings.batch_tokens,
            threads=settings.threads,
            executor=who,
            workspace=workspace(__file__),
        )
    predictions = sum(plan.rows for plan in manifest.splits.values())
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), predictions=predictions)


if __name__ == "__main__":
    main()
