"""Measure the gradient that each teacher and fusion would give a student, before training, and print a table."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import load, section
from pipeline.evaluate.results import write_json
from pipeline.report.page_gradients import gradients_part
from pipeline.text.corpus_view import MaskedSequences
from pipeline.train.params import TargetGradientParams
from pipeline.train.target_gradients import measure_targets
from stages.command import Run, params_option, path_option, runtime_params, sequences_options, stage


@click.command()
@sequences_options
@path_option("--logits", "Folder of the teachers' stores.")
@path_option("--targets", "Folder of the fused targets.")
@path_option("--tokenizer", "Folder of the students' tokenizer.")
@path_option("--out", "Report to write, .json.")
@params_option
@stage
def main(
    sequences: Path, masks: Path, logits: Path, targets: Path, tokenizer: Path, out: Path, params_file: Path
) -> None:
    """Measure the gradients of all targets of params.yaml."""
    params = section(params_file, "target_gradients", TargetGradientParams)
    named = load(params_file)
    with Run("target_gradients", __file__) as run:
        runtime = run.apply(runtime_params(params_file), float32=True)
        measured = measure_targets(
            params,
            MaskedSequences.open_pair(sequences, masks),
            logits=logits,
            targets=targets,
            tokenizer=tokenizer,
            teachers=list(named.get("teachers") or ()),
            fusions=list(named.get("fusions") or ()),
            runtime=runtime,
        )
        run.add(predictions=measured["measured"], report=write_json(out, measured))
        click.echo("\n\n".join(gradients_part(measured)))


if __name__ == "__main__":
    main()
