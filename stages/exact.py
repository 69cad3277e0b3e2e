"""Keep a model's hidden states at a few held-out blanks, from which its full softmax can be computed again."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.teach.hidden_states import keep_exact
from pipeline.teach.params import ExactParams
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--model", type=path, required=True, help="Folder of a masked language model.")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--sequences", type=path, required=True, help="Store of sequences.")
@click.option("--masks", type=path, required=True, help="Store of masks.")
@click.option("--out", type=path, required=True, help="Store of hidden states to write.")
@params_option
@stage
def main(name: str, model: Path, documents: Path, sequences: Path, masks: Path, out: Path, params: Path) -> None:
    """Keep the exact answers of the model in --model, called NAME."""
    settings = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"exact-{name}")
    device, dtype = runtime.apply(settings)
    keep_exact(
        section(params, "exact", ExactParams),
        model,
        documents=documents,
        sequences=sequences,
        masks=masks,
        out=out,
        device=device,
        dtype=dtype,
        batch_tokens=settings.batch_tokens,
        workspace=workspace(__file__),
    )
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."))


if __name__ == "__main__":
    main()
