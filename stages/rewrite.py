"""Rewrite held-out paragraphs with one masked language model, for machine-paraphrase detection."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.tasks.params import RewriteParams
from pipeline.tasks.rewrite import rewrite
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--documents", "Store of documents.")
@path_option("--out", "Set of paragraphs to write.")
@params_option
@stage
def main(name: str, documents: Path, out: Path, params_file: Path) -> None:
    """Make the set of rewriter NAME of params.yaml."""
    params = section(params_file, f"rewrite.{name}", RewriteParams)
    with Run(f"rewrite-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file), float32=True)
        manifest = rewrite(params, documents, out=out, runtime=runtime)
        run.add(paragraphs=manifest.facts["paragraphs"])


if __name__ == "__main__":
    main()
