"""Evaluate one teacher's store at the held-out masked positions."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.evaluate import evaluate_teacher
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import Run, corpus_options, params_option, path_option, stage


@click.command()
@click.argument("name")
@corpus_options
@path_option("--logits", "The teacher's store.")
@path_option("--out", "Report to write, .json; sums by document and top tokens beside it, .arrow.")
@params_option
@stage
def main(name: str, documents: Path, sequences: Path, masks: Path, logits: Path, out: Path, params_file: Path) -> None:
    """Evaluate teacher NAME of params.yaml."""
    params = section(params_file, "evaluate", EvaluateParams)
    with Run(f"evaluate_teacher-{name}", __file__) as run:
        heldout = open_heldout(MaskedCorpus.open(documents, sequences, masks))
        evaluation = evaluate_teacher(params, heldout, logits=logits)
        run.add(predictions=len(heldout.masked), report=evaluation.write(out))


if __name__ == "__main__":
    main()
