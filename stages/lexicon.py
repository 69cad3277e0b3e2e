"""Write the sense inventory that lexical training and disambiguation share."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.senses.lexicon import build_lexicon
from pipeline.senses.params import LexiconParams
from stages.command import Run, params_option, path_option, stage


@click.command()
@path_option("--out", "Store to write.")
@params_option
@stage
def main(out: Path, params_file: Path) -> None:
    """Write WordNet, or your own inventory, as a store."""
    params = section(params_file, "lexicon", LexiconParams)
    with Run("lexicon", __file__) as run:
        run.add(**build_lexicon(params, out=out, workspace=run.workspace))


if __name__ == "__main__":
    main()
