"""Rewrite held-out paragraphs with one masked language model, for machine-paraphrase detection."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.tasks.params import RewriteParams
from pipeline.tasks.rewrite import rewrite
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--out", type=path, required=True, help="Set of paragraphs to write.")
@params_option
@stage
def main(name: str, documents: Path, out: Path, params: Path) -> None:
    """Make the set of rewriter NAME of params.yaml."""
    settings = section(params, f"rewrite.{name}", RewriteParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"rewrite-{name}")
    device, _ = runtime.apply(speed)
    made = rewrite(
        settings, documents, out=out, device=device, batch_tokens=speed.batch_tokens, workspace=workspace(__file__)
    )
    record.write(device=device.type, dtype="float32", paragraphs=made.facts["paragraphs"])


if __name__ == "__main__":
    main()
