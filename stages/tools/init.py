"""Write a params.yaml for your teachers, student and texts, into a folder to run it in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from pipeline.project.scaffold import (
    amount_of,
    amount_used,
    model_of,
    settings_text,
    surveyed_in,
    this_machine,
    usable_layers,
    write_project,
)
from pipeline.text.documents.files import listed
from stages.command import PATH, stage


@click.command()
@click.argument("folder", type=PATH)
@click.option(
    "--teachers", "-t", multiple=True, required=True, metavar="[NAME=]MODEL",
    help="A folder, or a name on the hub; @COMMIT pins it. Give it once for each teacher, or part them by commas.",
)  # fmt: skip
@click.option("--student", required=True, metavar="[NAME=]MODEL", help="What students start from.")
@click.option(
    "--text", "texts", type=PATH, multiple=True, required=True, metavar="PATH",
    help="A file or folder: JSON Lines, CSV, TSV, Parquet or plain text. May be given several times.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a params.yaml that is there.")
@stage
def main(folder: Path, teachers: tuple[str, ...], student: str, texts: tuple[Path, ...], force: bool) -> None:
    """Make FOLDER a project: params.yaml with its choices explained, and the code. In a checkout, params.yaml alone.

    Models that are folders are loaded first, so that one that cannot be used is refused here and not hours later.
    """
    given = [part for each in teachers for part in ([each] if Path(each).exists() else each.split(",")) if part]
    models = [model_of(each, "--teachers", folder) for each in given]
    start = model_of(student, "--student", folder)
    seen, machine = surveyed_in(folder, texts), this_machine()
    amount = amount_of(seen, machine)
    text = settings_text(models, start, seen, machine, layers=usable_layers(models, start))
    write_project(folder, text, force=force)
    for one in seen:
        fields = f", text in '{one.params.text}'" if one.params.kind not in ("text", "wordnet") else ""
        click.echo(
            f"{one.params.path}: {one.params.kind}, {'' if one.exact else 'about '}{one.documents} documents{fields}"
        )
        if one.left:
            click.echo(f"  not read there as {one.params.kind}: {listed(one.left)}. Give what has texts with --text")
        if one.warning:
            click.echo(f"  Warning: {one.warning}")
    click.echo(amount_used(amount, machine))
    click.echo(f"Wrote {folder / 'params.yaml'}: look through it, then run:")
    here = Path(sys.executable).parent
    path = "" if shutil.which("dvc") and shutil.which("dvc") == str(here / "dvc") else f"PATH={here}:$PATH "
    click.echo(f"  cd {folder} && {path}dvc repro")
    click.echo(f"Results will be in {folder / 'reports' / 'index.html'}")


if __name__ == "__main__":
    main()
