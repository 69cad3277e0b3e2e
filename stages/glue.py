"""Fine-tune one model on GLUE's tasks and score it."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.tasks.glue import evaluate_glue
from pipeline.tasks.params import GlueParams
from stages.command import RunRecord, params_option, stage, workspace
from storage.format.manifest import file_sha256

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--model", type=path, required=True, help="The model's folder.")
@click.option("--out", type=path, required=True, help="Report to write, .json.")
@params_option
@stage
def main(name: str, model: Path, out: Path, params: Path) -> None:
    """Judge model NAME of params.yaml on GLUE's tasks."""
    settings = section(params, "glue", GlueParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"glue-{name}")
    device, dtype = runtime.apply(speed)
    evaluate_glue(
        settings,
        model=model,
        out=out,
        device=device,
        dtype=dtype,
        batch_tokens=speed.batch_tokens,
        workspace=workspace(__file__),
    )
    record.write(
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        fits=len(settings.tasks) * len(settings.seeds),
        report=file_sha256(out),
    )


if __name__ == "__main__":
    main()
