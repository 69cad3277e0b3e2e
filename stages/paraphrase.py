"""Evaluate one model as a detector of machine paraphrases."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.results import write_json
from pipeline.tasks.params import ParaphraseParams
from pipeline.tasks.paraphrase import evaluate_paraphrase
from pipeline.tasks.paraphrase_data import read_sets
from stages.command import Run, params_option, path_option, runtime_params, stage
from storage.errors import DataError


@click.command()
@click.argument("name")
@path_option("--model", "The model's folder.")
@path_option("--rewritten", "Folder of sets made by `rewrite`, or one of them.", multiple=True, required=False)
@path_option("--published", "Folder of the published corpus.", multiple=True, required=False)
@path_option("--pairs", "TSV file of pairs, or a folder with train.tsv and test.tsv.", multiple=True, required=False)
@path_option("--out", "Report to write, .json.")
@params_option
@stage
def main(
    name: str,
    model: Path,
    rewritten: tuple[Path, ...],
    published: tuple[Path, ...],
    pairs: tuple[Path, ...],
    out: Path,
    params_file: Path,
) -> None:
    """Evaluate NAME of params.yaml."""
    params = section(params_file, "paraphrase", ParaphraseParams)
    sets = [found for data in rewritten for found in read_sets("rewritten", data)]
    sets += [found for data in published for found in read_sets("published", data)]
    sets += [found for data in pairs for found in read_sets("pairs", data)]
    if not sets:
        raise DataError("paraphrase: no data. Give --rewritten, --published or --pairs")
    with Run(f"paraphrase-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        report = evaluate_paraphrase(params, sets, name=name, model=model, runtime=runtime)
        run.add(sets=len(sets), report=write_json(out, report))


if __name__ == "__main__":
    main()
