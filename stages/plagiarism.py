"""Evaluate one model at finding what was taken from where in whole documents."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.results import write_json
from pipeline.plagiarism.evaluate import evaluate_plagiarism
from pipeline.plagiarism.pan import DETECTED, read_corpora, write_features
from pipeline.plagiarism.params import PlagiarismParams
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--model", "The model's folder.")
@path_option("--data", "Folder in PAN's layout, or a folder of such folders.", multiple=True)
@path_option("--out", "Report to write, .json.")
@path_option("--detections", "Folder to write the detections in test documents to, as PAN's XML.", required=False)
@params_option
@stage
def main(name: str, model: Path, data: tuple[Path, ...], out: Path, detections: Path | None, params_file: Path) -> None:
    """Evaluate NAME of params.yaml."""
    params = section(params_file, "plagiarism", PlagiarismParams)
    corpora = [corpus for path in data for corpus in read_corpora(path)]
    with Run(f"plagiarism-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        result = evaluate_plagiarism(params, corpora, name=name, model=model, runtime=runtime)
        if detections is not None:
            for corpus, tested in result.tested.items():
                write_features(detections / corpus, tested, result.detections[corpus], feature=DETECTED)
        run.add(sets=len(corpora), report=write_json(out, result.report))


if __name__ == "__main__":
    main()
