"""Check all of params.yaml before any work."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.project.consistency import read_consistent
from stages.command import params_option, path_option, stage


@click.command()
@path_option("--out", "File to write when all is well.", required=False)
@params_option
@stage
def main(params_file: Path, out: Path | None) -> None:
    """Refuse settings that are unknown, impossible or contradict each other, with exit code 2."""
    read_consistent(params_file)
    if out is not None:
        # Always the same text, so that stages that depend on it wait for the check but do not run again after it.
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("ok\n", encoding="utf-8")


if __name__ == "__main__":
    main()
