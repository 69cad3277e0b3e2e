"""Judge one student on the held-out blanks."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.evaluate.evaluate import evaluate_student
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.params import EvaluateParams
from stages.command import RunRecord, params_option, stage

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--model", type=path, required=True, help="The student's folder.")
@click.option("--out", type=path, required=True, help="Report to write, .json; sums by document beside it, .arrow.")
@params_option
@stage
def main(name: str, documents: Path, sequences: Path, masks: Path, model: Path, out: Path, params: Path) -> None:
    """Judge student NAME of params.yaml."""
    settings = section(params, "evaluate", EvaluateParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"evaluate-{name}")
    device, _ = runtime.apply(speed)
    heldout = open_heldout(documents=documents, sequences=sequences, masks=masks)
    evaluation = evaluate_student(settings, heldout, model=model, device=device, batch_tokens=speed.batch_tokens)
    evaluation.write(out)
    record.write(device=device.type, dtype="float32", predictions=len(heldout.blanks))


if __name__ == "__main__":
    main()
