"""Write a model as ONNX."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from pipeline.models.onnx import TOLERANCE, export
from stages.command import PATH, stage


@click.command()
@click.argument("folder", type=PATH)
@click.argument("out", type=PATH)
@stage
def main(folder: Path, out: Path) -> None:
    """Write the model in FOLDER as ONNX to OUT, with its tokenizer, and compare its logits with PyTorch's."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # warns of packages that no language model needs
    difference = export(folder, out)
    click.echo(f"{out}: its logits differ from PyTorch's by {difference:.1g} of the largest, at most {TOLERANCE:g} may")


if __name__ == "__main__":
    main()
