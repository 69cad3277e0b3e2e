"""Judge one model as a language model, beside what it was before lexical training."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.language_model import judge_language_model
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.results import write_json
from stages.command import RunRecord, params_option, stage
from storage.format.manifest import file_sha256

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--model", type=path, required=True, help="Folder of the model.")
@click.option("--before", type=path, help="Folder that its lexical training started from.")
@click.option("--out", type=path, required=True, help="Report to write, .json.")
@params_option
@stage
def main(
    name: str, documents: Path, sequences: Path, masks: Path, model: Path, before: Path | None, out: Path, params: Path
) -> None:
    """Judge model NAME of params.yaml on the held-out blanks."""
    settings = section(params, "evaluate", EvaluateParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"language_model-{name}")
    device, _ = runtime.apply(speed)
    heldout = open_heldout(documents=documents, sequences=sequences, masks=masks)
    report = judge_language_model(
        settings, heldout, model=model, before=before, device=device, batch_tokens=speed.batch_tokens
    )
    write_json(out, report)
    record.write(device=device.type, dtype="float32", predictions=len(heldout.blanks), report=file_sha256(out))


if __name__ == "__main__":
    main()
