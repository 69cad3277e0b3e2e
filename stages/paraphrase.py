"""Judge one model as a detector of machine paraphrases."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core import runtime
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.tasks.params import ParaphraseParams
from pipeline.tasks.paraphrase import evaluate_paraphrase
from pipeline.tasks.paraphrase_data import read_sets
from stages.command import RunRecord, params_option, stage, workspace
from storage.errors import DataError
from storage.format.manifest import file_sha256

path = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--model", type=path, required=True, help="The model's folder.")
@click.option("--rewritten", type=path, multiple=True, help="Folder of sets made by `rewrite`, or one of them.")
@click.option("--published", type=path, multiple=True, help="Folder of the published corpus.")
@click.option("--pairs", type=path, multiple=True, help="TSV file of pairs, or a folder with train.tsv and test.tsv.")
@click.option("--out", type=path, required=True, help="Report to write, .json.")
@params_option
@stage
def main(
    name: str,
    model: Path,
    rewritten: tuple[Path, ...],
    published: tuple[Path, ...],
    pairs: tuple[Path, ...],
    out: Path,
    params: Path,
) -> None:
    """Judge NAME of params.yaml."""
    settings = section(params, "paraphrase", ParaphraseParams)
    speed = section(params, "runtime", RuntimeParams)
    record = RunRecord(f"paraphrase-{name}")
    sets = [found for data in rewritten for found in read_sets("rewritten", data)]
    sets += [found for data in published for found in read_sets("published", data)]
    sets += [found for data in pairs for found in read_sets("pairs", data)]
    if not sets:
        raise DataError("paraphrase: no data. Give --rewritten, --published or --pairs")
    device, dtype = runtime.apply(speed)
    evaluate_paraphrase(
        settings, sets, name=name, model=model, out=out, device=device, dtype=dtype, batch_tokens=speed.batch_tokens,
        workspace=workspace(__file__),
    )  # fmt: skip
    record.write(device=device.type, dtype=str(dtype).removeprefix("torch."), sets=len(sets), report=file_sha256(out))


if __name__ == "__main__":
    main()
