"""Run one teacher over the corpus and write its predictions at every masked position."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.executor.dask import open_executor
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import Run, corpus_options, out_option, params_option, path_option, runtime_params, stage
from storage.share.remote import outlet


@click.command()
@click.argument("name")
@corpus_options
@path_option("--tokenizer", "Folder of the students' tokenizer.")
@out_option("Store of logits")
@params_option
@stage
def main(
    name: str, documents: Path, sequences: Path, masks: Path, tokenizer: Path, out: str, params_file: Path
) -> None:
    """Run teacher NAME of params.yaml."""
    params = section(params_file, f"teachers.{name}", TeacherParams)
    with (
        Run(f"teach-{name}", __file__) as run,
        open_executor(runtime_params(params_file), threads=1, gpu=True, command=run.command) as (executor, settings),
        outlet(out) as folder,
    ):
        corpus = MaskedCorpus.open(documents, sequences, masks)
        manifest = teach(
            params, corpus, out=folder, runtime=run.apply(settings), tokenizer=tokenizer, executor=executor
        )
        run.add(predictions=sum(plan.rows for plan in manifest.splits.values()))


if __name__ == "__main__":
    main()
