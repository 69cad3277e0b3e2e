"""Fetch one source: a model, WordNet, or a data set."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.sources.fetch import fetch
from pipeline.sources.params import source_section
from stages.command import Run, params_option, path_option, stage
from storage.format.manifest import digest
from storage.work import WorkFolder


@click.command()
@click.argument("name")
@path_option("--out", "Folder to write.")
@params_option
@stage
def main(name: str, out: Path, params_file: Path) -> None:
    """Fetch source NAME of params.yaml."""
    params = source_section(params_file, name)
    identity = digest(params.model_dump(mode="json"))
    with (
        Run(f"sources-{name}", __file__) as run,
        WorkFolder(out, name=f"sources-{name}", identity=identity, workspace=run.workspace) as work,
    ):
        work.empty_content()
        run.add(route=fetch(name, params, work.content)["route"])
        work.publish()


if __name__ == "__main__":
    main()
