"""Write a student as the difference of its weights from its start's; an entry of `published` makes it again."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.lexical.weight_delta import CHANGES_FILE, pack
from stages.command import PATH, path_option, stage


@click.command()
@click.argument("student", type=PATH)
@path_option("--start", "Model folder that it began as.")
@path_option("--out", "Folder to write; must not exist.")
@stage
def main(student: Path, start: Path, out: Path) -> None:
    """Pack the model in folder STUDENT."""
    pack(student, start=start, out=out)
    click.echo(f"{out}: {(out / CHANGES_FILE).stat().st_size / 1e6:.1f} MB of changes")


if __name__ == "__main__":
    main()
