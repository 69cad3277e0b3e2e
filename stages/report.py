"""Put all evaluations into one summary, two pages (Markdown, and for a browser) and plots.

It writes no run record of its own: the records are among its inputs, and a file it adds there would look like a change.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import load, section
from pipeline.evaluate.params import EvaluateParams
from pipeline.report.summary import Names, write_report
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import params_option, path_option, stage
from storage.errors import ParamsError


@click.command()
@path_option("--reports", "Folder with the evaluations and the run records.", required=False, default=Path("reports"))
@path_option(
    "--out", "Folder for what is written: index.html, report.md and more.", required=False, default=Path("reports")
)
@path_option("--documents", "Store of documents: the texts of the page's explorer.", required=False)
@path_option("--sequences", "Store of sequences.", required=False)
@path_option("--masks", "Store of masks.", required=False)
@params_option
@stage
def main(
    reports: Path, out: Path, documents: Path | None, sequences: Path | None, masks: Path | None, params_file: Path
) -> None:
    """Report on all teachers, fusions and students of params.yaml."""
    params = section(params_file, "evaluate", EvaluateParams)
    corpus = None
    if documents is not None and sequences is not None and masks is not None:
        corpus = MaskedCorpus.open(documents, sequences, masks)
    elif (documents, sequences, masks) != (None, None, None):
        raise ParamsError("report: expected --documents, --sequences and --masks together, or none of them")
    write_report(params, Names.of(load(params_file)), reports=reports, out=out, corpus=corpus)
    click.echo(f"Results: {out / 'index.html'} (open it in a browser), {out / 'report.md'}")


if __name__ == "__main__":
    main()
