"""Fetch one source: a model, WordNet, or a data set."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.sources.fetch import fetch
from pipeline.sources.params import source_section
from stages.command import RunRecord, params_option, stage, workspace
from storage.format.manifest import digest
from storage.work import WorkFolder

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--out", type=path, required=True, help="Folder to write.")
@params_option
@stage
def main(name: str, out: Path, params: Path) -> None:
    """Fetch source NAME of params.yaml."""
    settings = source_section(params, name)
    record = RunRecord(f"sources-{name}")
    identity = digest(settings.model_dump(mode="json"))
    with WorkFolder(out, name=f"sources-{name}", identity=identity, workspace=workspace(__file__)) as work:
        work.empty_content()
        used = fetch(name, settings, work.content)
        work.publish()
    record.write(route=used["route"])


if __name__ == "__main__":
    main()
