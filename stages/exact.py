"""Keep a model's hidden states at a few held-out masked positions; its full softmax can be computed from them."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.teach.hidden_states import keep_exact
from pipeline.teach.params import ExactParams
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import Run, corpus_options, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--model", "The model's folder.")
@corpus_options
@path_option("--out", "Store of hidden states to write.")
@params_option
@stage
def main(name: str, model: Path, documents: Path, sequences: Path, masks: Path, out: Path, params_file: Path) -> None:
    """Keep the exact predictions of the model in --model, called NAME."""
    params = section(params_file, "exact", ExactParams)
    with Run(f"exact-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        keep_exact(params, model, MaskedCorpus.open(documents, sequences, masks), out=out, runtime=runtime)


if __name__ == "__main__":
    main()
