"""Evaluate one model as a language model, beside what it was before lexical training."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.language_model import evaluate_language_model
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.results import write_json
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import Run, corpus_options, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@corpus_options
@path_option("--model", "The model's folder.")
@path_option("--before", "Folder that its lexical training started from.", required=False)
@path_option("--out", "Report to write, .json.")
@params_option
@stage
def main(
    name: str,
    documents: Path,
    sequences: Path,
    masks: Path,
    model: Path,
    before: Path | None,
    out: Path,
    params_file: Path,
) -> None:
    """Evaluate model NAME of params.yaml at the held-out masked positions."""
    params = section(params_file, "evaluate", EvaluateParams)
    with Run(f"language_model-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file), float32=True)
        heldout = open_heldout(MaskedCorpus.open(documents, sequences, masks))
        report = evaluate_language_model(params, heldout, model=model, before=before, runtime=runtime)
        run.add(predictions=len(heldout.masked), report=write_json(out, report))


if __name__ == "__main__":
    main()
