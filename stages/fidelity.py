"""Measure how much of a teacher's full softmax its sparse store keeps, and at what size."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.evaluate.fidelity import fidelity
from pipeline.evaluate.results import write_json
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--logits", "The teacher's sparse store.")
@path_option("--exact", "Its hidden states at held-out masked positions.")
@path_option("--out", "Report to write, .json.")
@params_option
@stage
def main(name: str, logits: Path, exact: Path, out: Path, params_file: Path) -> None:
    """Compare the store of teacher NAME with its full softmax."""
    with Run(f"fidelity-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file), float32=True)
        report = {"store": name, **fidelity(logits, exact, device=runtime.device)}
        run.add(report=write_json(out, report))


if __name__ == "__main__":
    main()
