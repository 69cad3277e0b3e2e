"""Make a masked-LM teacher of an encoder, or specialise one on a text."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.adapt.adapt import adapt
from pipeline.adapt.params import AdapterParams
from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from stages.command import RunRecord, params_option, stage, workspace

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--documents", type=path, required=True, help="Store of documents.")
@click.option("--out", type=path, required=True, help="Model folder to write.")
@params_option
@stage
def main(name: str, documents: Path, out: Path, params: Path) -> None:
    """Train adapter NAME of params.yaml and write the masked language model it makes."""
    adapter = section(params, f"adapters.{name}", AdapterParams)
    settings = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"adapt-{name}")
    device, dtype = runtime.apply(settings)
    trained = adapt(
        adapter,
        documents=documents,
        out=out,
        device=device,
        dtype=dtype,
        batch_tokens=settings.batch_tokens,
        checkpoint_seconds=settings.checkpoint_seconds,
        workspace=workspace(__file__),
    )
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), tokens=trained["tokens"])


if __name__ == "__main__":
    main()
