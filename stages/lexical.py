"""Train a gloss classifier on a student's encoder and keep the student a masked language model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.lexical.params import LexicalParams
from pipeline.lexical.train import train_lexical
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import Run, corpus_options, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--lexicon", "Store of the inventory.")
@path_option("--senses", "Folder of stores of instances.")
@corpus_options
@path_option("--out", "Model folder to write.")
@params_option
@stage
def main(
    name: str, lexicon: Path, senses: Path, documents: Path, sequences: Path, masks: Path, out: Path, params_file: Path
) -> None:
    """Train lexical student NAME of params.yaml; what is held out of the documents is not shown to it."""
    params = section(params_file, f"lexical.{name}", LexicalParams)
    with Run(f"lexical-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        corpus = MaskedCorpus.open(documents, sequences, masks)
        trained = train_lexical(params, corpus, lexicon=lexicon, senses=senses, out=out, runtime=runtime)
        run.add(steps=trained["steps"])


if __name__ == "__main__":
    main()
