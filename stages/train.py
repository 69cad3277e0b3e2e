"""Train one student from the fused store."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.text.corpus_view import MaskedSequences
from pipeline.train.params import StudentParams, TrainingParams
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
    with Run(f"train-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        corpus = MaskedSequences.open_pair(sequences, masks)
        trained = train(student, params, corpus, tokenizer=tokenizer, out=out, runtime=runtime)
        run.add(tokens=trained["tokens"])


if __name__ == "__main__":
    main()
