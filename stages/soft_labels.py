"""Compute a lexical teacher's soft labels: its distribution over senses of every word in context."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.lexical.params import SoftLabelsParams
from pipeline.lexical.soft_labels import write_soft_labels
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--lexicon", "Store of the inventory.")
@path_option("--senses", "Folder of stores of instances.")
@path_option("--out", "Store to write.")
@params_option
@stage
def main(name: str, lexicon: Path, senses: Path, out: Path, params_file: Path) -> None:
    """Run teacher NAME under `soft_labels` of params.yaml."""
    params = section(params_file, f"soft_labels.{name}", SoftLabelsParams)
    with Run(f"soft_labels-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        words = write_soft_labels(
            params,
            lexicon=lexicon,
            senses=senses,
            out=out,
            runtime=runtime,
        )
        run.add(words=words)


if __name__ == "__main__":
    main()
