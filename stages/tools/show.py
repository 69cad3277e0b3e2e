"""Print one document as all stores hold it: text, masked positions, predictions of teachers, fusion and students."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import load, nearest, section
from pipeline.core.runtime import apply
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.trace import Stores, lines, trace
from stages.command import params_option, path_option, runtime_params, stage
from storage.errors import ParamsError


@click.command()
@click.option(
    "--document", help="Id of a document in any split. Default: the first held-out one with a masked position."
)
@click.option("--students", help="Names, separated by commas; by default all that are trained.")
@click.option(
    "--positions", type=click.IntRange(min=0), default=12, show_default=True, help="Masked positions to show; 0: all."
)
@path_option("--data", "Folder of the stores.", required=False, default=Path("data"), show_default=True)
@path_option("--models", "Folder of the students.", required=False, default=Path("models"), show_default=True)
@params_option
@stage
def main(
    document: str | None, students: str | None, positions: int, data: Path, models: Path, params_file: Path
) -> None:
    """Show what became of one document."""
    params = section(params_file, "evaluate", EvaluateParams)
    everything = load(params_file)
    known = list(everything.get("students") or ())
    chosen = [name for name in (students or "").split(",") if name]
    for name in chosen:
        if name not in known:
            raise ParamsError(f"{params_file}: students: no key '{name}'{nearest(name, known)}")
    if students is None:
        chosen = [name for name in known if (models / name / "training.json").is_file()]
    stores = Stores.open(
        data,
        teachers=list(everything.get("teachers") or ()),
        targets=Path(params.against),
        students={name: models / name for name in chosen},
    )
    for line in lines(trace(stores, document, runtime=apply(runtime_params(params_file))), positions=positions):
        click.echo(line)


if __name__ == "__main__":
    main()
