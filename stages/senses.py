"""Write words in context with their candidate senses: one source of lexical training."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.senses.instances import build_instances
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.params import SensesParams
from stages.command import Run, params_option, path_option, stage


@click.command()
@click.argument("name")
@path_option("--lexicon", "Store of the inventory.")
@path_option("--out", "Store to write.")
@params_option
@stage
def main(name: str, lexicon: Path, out: Path, params_file: Path) -> None:
    """Write source NAME under `senses` of params.yaml."""
    params = section(params_file, f"senses.{name}", SensesParams)
    with Run(f"senses-{name}", __file__) as run:
        facts = build_instances(name, params, Lexicon.open(lexicon), out=out, workspace=run.workspace)
        run.add(counts=facts["counts"])


if __name__ == "__main__":
    main()
