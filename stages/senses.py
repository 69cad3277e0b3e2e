"""Write words in context with their candidate senses: one source of lexical training."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.senses.instances import build_instances
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.params import SensesParams
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--lexicon", type=path, required=True, help="Store of the inventory.")
@click.option("--out", type=path, required=True, help="Store to write.")
@params_option
@stage
def main(name: str, lexicon: Path, out: Path, params: Path) -> None:
    """Write source NAME under `senses` of params.yaml."""
    record = RunRecord(f"senses-{name}")
    facts = build_instances(
        name,
        section(params, f"senses.{name}", SensesParams),
        Lexicon.open(lexicon),
        out=out,
        workspace=workspace(__file__),
    )
    record.write(counts=facts["counts"])


if __name__ == "__main__":
    main()
