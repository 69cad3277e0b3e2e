"""Train a lexical student: pour word senses into a masked language model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.lexical.params import LexicalParams
from pipeline.lexical.train import train_lexical
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--lexicon", type=path, required=True, help="Store of the inventory.")
@click.option("--senses", type=path, required=True, help="Folder of stores of instances.")
@click.option("--documents", type=path, required=True, help="Store of documents; what is held out there is not shown.")
@click.option("--sequences", type=path, required=True, help="Store of sequences, for the language model's part.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--out", type=path, required=True, help="Model folder to write.")
@params_option
@stage
def main(
    name: str, lexicon: Path, senses: Path, documents: Path, sequences: Path, masks: Path, out: Path, params: Path
) -> None:
    """Train lexical student NAME of params.yaml."""
    settings = section(params, f"lexical.{name}", LexicalParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"lexical-{name}")
    device, dtype = runtime.apply(speed)
    trained = train_lexical(
        settings,
        lexicon=lexicon,
        senses=senses,
        documents=documents,
        sequences=sequences,
        masks=masks,
        out=out,
        device=device,
        dtype=dtype,
        batch_tokens=speed.batch_tokens,
        checkpoint_seconds=speed.checkpoint_seconds,
        workspace=workspace(__file__),
    )
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), steps=trained["steps"])


if __name__ == "__main__":
    main()
