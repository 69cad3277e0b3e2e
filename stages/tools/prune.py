"""Remove what params.yaml no longer names."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from pipeline.project.consistency import read_consistent
from pipeline.project.pruning import orphans
from pipeline.teach.extend import kept_stores
from stages.command import params_option, stage
from storage.work import finished_folders


@click.command()
@click.option("--yes", is_flag=True, help="Remove; without it only list.")
@params_option
@stage
def main(params_file: Path, yes: bool) -> None:
    """List outputs and reports of entries that params.yaml no longer has, finished work folders and kept stores."""
    found = [*orphans(read_consistent(params_file)), *finished_folders(), *kept_stores()]
    for path in found:
        click.echo(f"{'removing' if yes else 'would remove'} {path}")
        if yes and path.is_dir():
            shutil.rmtree(path)
        elif yes:
            path.unlink()
    if not found:
        click.echo("nothing to remove")
    elif not yes:
        click.echo("Run again with --yes to remove them")


if __name__ == "__main__":
    main()
