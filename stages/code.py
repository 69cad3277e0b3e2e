"""List the modules that each command imports, so that an edit runs the stages that import it and no others."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.import_closure import write_digests
from stages.command import path_option, stage


@click.command()
@path_option("--out", "Folder to write, a file for each command.")
@stage
def main(out: Path) -> None:
    """List the modules that each command imports, with their SHA-256; dvc.yaml depends on the lists."""
    write_digests(Path(__file__).parents[1], out)


if __name__ == "__main__":
    main()
