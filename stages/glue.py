"""Fine-tune one model on GLUE's tasks and score it."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.results import write_json
from pipeline.tasks.glue import evaluate_glue
from pipeline.tasks.params import GlueParams
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--model", "The model's folder.")
@path_option("--out", "Report to write, .json.")
@params_option
@stage
def main(name: str, model: Path, out: Path, params_file: Path) -> None:
    """Evaluate model NAME of params.yaml on GLUE's tasks."""
    params = section(params_file, "glue", GlueParams)
    with Run(f"glue-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        report = evaluate_glue(params, name=name, model=model, runtime=runtime)
        run.add(fits=len(params.tasks) * len(params.seeds), report=write_json(out, report))


if __name__ == "__main__":
    main()
