"""Score a lexical student at word sense disambiguation: on any set in the Raganato layout, or on held-out words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.evaluate.results import write_json
from pipeline.lexical.reading.reader import sense_reader
from pipeline.senses.instances import Instances
from pipeline.tasks.params import WsdParams
from pipeline.tasks.wsd import (
    ScoredSet,
    score_files,
    score_heldout,
    wsd_report,
)
from pipeline.tasks.wsd_scorer import write_answers
from stages.command import Run, params_option, path_option, runtime_params, stage
from storage.documents import DocumentStore
from storage.errors import ParamsError
from storage.format.manifest import MANIFEST


@click.command()
@path_option("--model", "The lexical student's folder.")
@path_option("--data", "A set, NAME.data.xml (also .gz, .zst).", required=False)
@path_option("--gold", "Its key, NAME.gold.key.txt.", required=False)
@path_option("--senses", "Store of instances, or a folder of such stores.", required=False, multiple=True)
@path_option(
    "--documents", "Store of documents: held-out words that its train split shows are not scored.", required=False
)
@path_option("--answers", "Also write the answers, in the layout of a key file.", required=False)
@path_option("--out", "Report to write, .json.", required=False)
@params_option
@stage
def main(
    model: Path,
    data: Path | None,
    gold: Path | None,
    senses: tuple[Path, ...],
    documents: Path | None,
    answers: Path | None,
    out: Path | None,
    params_file: Path,
) -> None:
    """Score a student on --data with --gold, or on the held-out words of --senses."""
    if (data is None) != (gold is None) or (data is None) == (not senses):
        raise ParamsError("wsd: expected --data with --gold, or --senses; give one of the two")
    params = section(params_file, "wsd", WsdParams)
    with Run(None if out is None else f"wsd-{out.stem}", __file__) as run:
        runtime = run.apply(runtime_params(params_file), float32=True)
        with sense_reader(model, runtime) as reader:
            if data is not None and gold is not None:
                scored = score_files(reader, params, data=data, gold=gold)
            else:
                stores = [store for folder in senses for store in stores_in(folder)]
                opened = {store.name: Instances.open(store, lexicon=reader.lexicon) for store in stores}
                texts = None if documents is None else partial(texts_of, DocumentStore(documents))
                scored = score_heldout(reader, params, opened, training_texts=texts)
        click.echo(table(scored))
        if answers is not None:
            write_answers(answers, scored.answers)
        run.add(words=len(scored.answers))
        if out is not None:
            run.add(report=write_json(out, wsd_report(model, scored)))


def texts_of(documents: DocumentStore) -> Iterator[str]:
    """The texts of the train split, from disk one after the other."""
    for batch in documents.batches("train", columns=("text",)):
        yield from batch.column("text").to_pylist()


def stores_in(folder: Path) -> list[Path]:
    """The folder when it is a store, else the stores in it, by name."""
    if (folder / MANIFEST).is_file():
        return [folder]
    return [found for found in sorted(folder.glob("*/")) if not found.name.startswith(".")] or [folder]


def table(scored: ScoredSet) -> str:
    """F1 of each group with its interval, beside the first sense, for a person to read."""
    lines = [f"{'':24} {'F1':>6} {'95 %':>14} {'first sense':>12} {'words':>7}"]
    for name, group in scored.scores.groups.items():
        f1 = group.f1
        span = "" if f1.low is None or f1.high is None else f"{100 * f1.low:.1f} to {100 * f1.high:.1f}"
        lines.append(f"{name:24} {100 * f1.value:6.2f} {span:>14} {100 * group.first_sense.value:12.2f} {f1.n:7}")
    odd = ", ".join(f"{name} {count}" for name, count in scored.counts.items())
    return "\n".join([*lines, odd])


if __name__ == "__main__":
    main()
