"""Hide rewritten passages in other documents, for plagiarism detection."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.plagiarism.params import PlagiarismSetParams
from pipeline.plagiarism.plant import make_set
from stages.command import Run, params_option, path_option, stage


@click.command()
@click.argument("name")
@path_option("--documents", "Store of documents.")
@path_option("--out", "Folder in PAN's layout to write.")
@params_option
@stage
def main(name: str, documents: Path, out: Path, params_file: Path) -> None:
    """Make the set NAME of params.yaml."""
    params = section(params_file, f"plagiarism_sets.{name}", PlagiarismSetParams)
    with Run(f"plagiarism_sets-{name}", __file__) as run:
        record = make_set(params, documents, out=out, workspace=run.workspace)
        run.add(**{key: record[key] for key in ("suspicious", "sources", "passages")})


if __name__ == "__main__":
    main()
