"""Ask a lexical teacher, once, what it believes of every word in context."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.lexical.params import SoftLabelsParams
from pipeline.lexical.soft_labels import write_soft_labels
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--lexicon", type=path, required=True, help="Store of the inventory.")
@click.option("--senses", type=path, required=True, help="Folder of stores of instances.")
@click.option("--out", type=path, required=True, help="Store to write.")
@params_option
@stage
def main(name: str, lexicon: Path, senses: Path, out: Path, params: Path) -> None:
    """Ask teacher NAME under `soft_labels` of params.yaml."""
    settings = section(params, f"soft_labels.{name}", SoftLabelsParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"soft_labels-{name}")
    device, dtype = runtime.apply(speed)
    words = write_soft_labels(
        settings,
        lexicon=lexicon,
        senses=senses,
        out=out,
        device=device,
        dtype=dtype,
        batch_tokens=speed.batch_tokens,
        workspace=workspace(__file__),
    )
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), words=words)


if __name__ == "__main__":
    main()
