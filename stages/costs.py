"""Measure what using one model costs."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.costs import measure_costs
from pipeline.evaluate.params import CostParams
from pipeline.evaluate.results import write_json
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--model", "The model's folder.")
@path_option("--out", "Report to write, .json.")
@params_option
@stage
def main(name: str, model: Path, out: Path, params_file: Path) -> None:
    """Measure the costs of model NAME of params.yaml."""
    params = section(params_file, "costs", CostParams)
    with Run(f"costs-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        run.add(report=write_json(out, measure_costs(params, model, runtime=runtime)))


if __name__ == "__main__":
    main()
