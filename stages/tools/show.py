"""Print one document's way through all stores: text, blanks, teachers, fusion, students."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import load, nearest, section
from pipeline.core.params import RuntimeParams
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.trace import Stores, lines, trace
from stages.command import params_option, stage
from storage.errors import ParamsError

path = click.Path(path_type=Path)


@click.command()
@click.option("--document", help="Id of a document in any split; by default the first held-out one with a blank.")
@click.option("--students", help="Names, separated by commas; by default all that are trained.")
@click.option("--blanks", type=click.IntRange(min=0), default=12, show_default=True, help="Blanks to show; 0 for all.")
@click.option("--data", type=path, default=Path("data"), show_default=True, help="Folder of the stores.")
@click.option("--models", type=path, default=Path("models"), show_default=True, help="Folder of the students.")
@params_option
@stage
def main(document: str | None, students: str | None, blanks: int, data: Path, models: Path, params: Path) -> None:
    """Show what became of one document."""
    settings = section(params, "evaluate", EvaluateParams)
    everything = load(params)
    known = list(everything.get("students") or ())
    chosen = [name for name in (students or "").split(",") if name]
    for name in chosen:
        if name not in known:
            raise ParamsError(f"{params}: students: no key '{name}'{nearest(name, known)}")
    if students is None:
        chosen = [name for name in known if (models / name / "training.json").is_file()]
    device, _ = runtime.apply(speed := section(params, "runtime", RuntimeParams))
    stores = Stores.open(
        data,
        teachers=list(everything.get("teachers") or ()),
        targets=Path(settings.against),
        students={name: models / name for name in chosen},
    )
    for line in lines(trace(stores, document, device=device, batch_tokens=speed.batch_tokens), blanks=blanks):
        click.echo(line)


if __name__ == "__main__":
    main()
