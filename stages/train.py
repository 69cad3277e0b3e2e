"""Train one student from the fused store."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.corpus_view import MaskedSequences
from pipeline.train.params import StudentParams, TrainingParams
from pipeline.train.processes import first_of_launched, joined, launch, launched
from pipeline.train.train import train
from stages.command import Run, params_option, path_option, runtime_params, sequences_options, stage


@click.command()
@click.argument("name")
@sequences_options
@path_option("--tokenizer", "Folder of the students' tokenizer.")
@path_option("--out", "Model folder to write.")
@params_option
@stage
def main(name: str, sequences: Path, masks: Path, tokenizer: Path, out: Path, params_file: Path) -> None:
    """Train student NAME of params.yaml."""
    student = section(params_file, f"students.{name}", StudentParams)
    params = section(params_file, "training", TrainingParams)
    settings = runtime_params(params_file)
    if settings.processes > 1 and launched() == 1:
        launch(settings.processes, "stages.train", sys.argv[1:])
        return
    with Run(f"train-{name}" if first_of_launched() else None, __file__) as run:
        runtime = run.apply(settings)
        with joined(runtime.device) as (processes, device):
            corpus = MaskedSequences.open_pair(sequences, masks)
            runtime = replace(runtime, device=device)
            trained = train(student, params, corpus, tokenizer=tokenizer, out=out, runtime=runtime, processes=processes)
            run.add(tokens=trained["tokens"], processes=processes.share.of)


if __name__ == "__main__":
    main()
