"""Make a masked-LM teacher of an encoder, or specialise one on a text."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.adapt.adapt import adapt
from pipeline.adapt.params import AdapterParams
from pipeline.core.config import section
from stages.command import Run, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("name")
@path_option("--documents", "Store of documents.")
@path_option("--out", "Model folder to write.")
@params_option
@stage
def main(name: str, documents: Path, out: Path, params_file: Path) -> None:
    """Train adapter NAME of params.yaml and write the masked language model it makes."""
    params = section(params_file, f"adapters.{name}", AdapterParams)
    with Run(f"adapt-{name}", __file__) as run:
        runtime = run.apply(runtime_params(params_file))
        run.add(tokens=adapt(params, documents=documents, out=out, runtime=runtime)["tokens"])


if __name__ == "__main__":
    main()
