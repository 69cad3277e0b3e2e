"""Measure how much of a teacher's full softmax its sparse store keeps, and at what size."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.evaluate.fidelity import fidelity
from stages.command import RunRecord, params_option, stage

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--logits", type=path, required=True, help="The teacher's sparse store.")
@click.option("--exact", type=path, required=True, help="Its hidden states at held-out blanks.")
@click.option("--out", type=path, required=True, help="Report to write, JSON.")
@params_option
@stage
def main(name: str, logits: Path, exact: Path, out: Path, params: Path) -> None:
    """Compare the store of teacher NAME with its full softmax."""
    record = RunRecord(f"fidelity-{name}")
    device, _ = runtime.apply(section(params, "runtime", RuntimeParams))
    report = fidelity(logits, exact, device=device)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"store": name, **report}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    record.write(device=device.type)


if __name__ == "__main__":
    main()
