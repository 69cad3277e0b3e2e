"""Measure what using one model costs."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.evaluate.costs import measure_costs
from pipeline.evaluate.params import CostParams
from pipeline.evaluate.results import write_json
from stages.command import RunRecord, params_option, stage
from storage.format.manifest import file_sha256

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--model", type=path, required=True, help="Folder of a student or teacher.")
@click.option("--out", type=path, required=True, help="Report to write, .json.")
@params_option
@stage
def main(name: str, model: Path, out: Path, params: Path) -> None:
    """Measure the costs of model NAME of params.yaml."""
    settings = section(params, "costs", CostParams)
    record = RunRecord(f"costs-{name}")
    device, dtype = runtime.apply(section(params, "runtime", RuntimeParams))
    write_json(out, measure_costs(settings, model, device=device, dtype=dtype))
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), report=file_sha256(out))


if __name__ == "__main__":
    main()
