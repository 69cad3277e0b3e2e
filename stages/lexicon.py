"""Write the sense inventory that lexical training and disambiguation share."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.senses.lexicon import build_lexicon
from pipeline.senses.params import LexiconParams
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.option("--out", type=path, required=True, help="Store to write.")
@params_option
@stage
def main(out: Path, params: Path) -> None:
    """Write WordNet, or your own inventory, as a store."""
    record = RunRecord("lexicon")
    record.write(**build_lexicon(section(params, "lexicon", LexiconParams), out=out, workspace=workspace(__file__)))


if __name__ == "__main__":
    main()
