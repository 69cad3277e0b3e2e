"""Train one student from the fused store."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.train.params import StudentParams, TrainingParams
from pipeline.train.train import train
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--tokenizer", type=path, required=True, help="Folder of the students' tokenizer.")
@click.option("--out", type=path, required=True, help="Model folder to write.")
@params_option
@stage
def main(name: str, sequences: Path, masks: Path, tokenizer: Path, out: Path, params: Path) -> None:
    """Train student NAME of params.yaml."""
    student = section(params, f"students.{name}", StudentParams)
    training = section(params, "training", TrainingParams)
    settings = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"train-{name}")
    device, dtype = runtime.apply(settings)
    trained = train(
        student,
        training,
        sequences=sequences,
        masks=masks,
        tokenizer=tokenizer,
        out=out,
        device=device,
        dtype=dtype,
        batch_tokens=settings.batch_tokens,
        checkpoint_seconds=settings.checkpoint_seconds,
        workspace=workspace(__file__),
    )
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), tokens=trained["tokens"])


if __name__ == "__main__":
    main()
