"""Judge one store of fused targets on the held-out blanks, beside the teachers it was fused from."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.evaluate import evaluate_fusion
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.params import EvaluateParams
from stages.command import RunRecord, params_option, stage

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--logits", type=path, required=True, help="Folder of the teachers' stores.")
@click.option("--targets", type=path, required=True, help="The fusion's store.")
@click.option("--out", type=path, required=True, help="Report to write, .json; sums by document beside it, .arrow.")
@params_option
@stage
def main(
    name: str, documents: Path, sequences: Path, masks: Path, logits: Path, targets: Path, out: Path, params: Path
) -> None:
    """Judge fusion NAME of params.yaml."""
    settings = section(params, "evaluate", EvaluateParams)
    record = RunRecord(f"evaluate_fusion-{name}")
    heldout = open_heldout(documents=documents, sequences=sequences, masks=masks)
    evaluate_fusion(settings, heldout, targets=targets, logits=logits).write(out)
    record.write(predictions=len(heldout.blanks))


if __name__ == "__main__":
    main()
