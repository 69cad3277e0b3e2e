"""Write what became of every family in every role, what teachers of other vocabularies answer, and what it is worth.

    python -m benchmarks.families --texts texts/mixed.jsonl.zst --out reports/families.json

Forty minutes of one core, after `make repro`. Without --texts coverage is that of the glosses alone.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.families.configs import FAMILIES
from benchmarks.families.coverage import measure, train_teacher
from benchmarks.families.gain import gain
from benchmarks.families.likelihood import likelihood
from benchmarks.families.matrix import World, make_targets, run_family
from pipeline.core.params import RuntimeParams
from pipeline.core.runtime import apply
from pipeline.evaluate.results import write_json
from pipeline.text.documents.ingest import ALL
from storage.documents import DocumentStore
from storage.records.base import SPLITS
from storage.work import Workspace

PATH = click.Path(path_type=Path)
RUNTIME = RuntimeParams(device="cpu", dtype="auto", threads=1, batch_tokens=2048, checkpoint_seconds=1e6)
PARTS = ("families", "coverage", "gain")
PAGES = 150
"""Pages on which a teacher's likelihood is measured; they have to be new to it."""


def families(names: tuple[str, ...], root: Path) -> list[dict[str, Any]]:
    """The outcome of each of these families, or of all, in each role."""
    world = World.make(root / "world")
    targets = make_targets(world, root / "targets")
    outcomes = []
    for name in names or FAMILIES:
        made = run_family(world, name, root / "run" / name, roles=("teacher", "start", "lexical"), targets=targets)
        for outcome in made:
            print(f"{outcome.family:16} {outcome.role:8} {outcome.outcome:8} {outcome.why[:100]}", flush=True)
        # A message names the temporary folder, which is another one every time.
        outcomes += [asdict(outcome) | {"why": outcome.why.replace(f"{root}/", "")} for outcome in made]
    return outcomes


@click.command()
@click.option("--out", type=PATH, default=Path("reports/families.json"), show_default=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="This part only.")
@click.option("--family", "names", multiple=True, type=click.Choice(sorted(FAMILIES)), help="These only; else all.")
@click.option("--student", type=PATH, default=Path("data/sources/minilm-l6-mlm"), help="The students' tokenizer.")
@click.option("--glosses", type=PATH, default=Path("data/text/wordnet"), help="Store of ingested documents.")
@click.option("--texts", type=PATH, help="JSON Lines of mixed text.")
@click.option("--model", type=PATH, default=Path("data/sources/wordnet-things"), help="A teacher, for likelihoods.")
@click.option("--data", type=PATH, default=Path("data"), help="Stores of the default run.")
@click.option("--documents", type=int, default=1000, show_default=True, help="Documents of each text at most.")
@click.option("--teacher", "teachers", multiple=True, help="NAME=FOLDER of a further tokenizer.")
def main(
    out: Path,
    parts: tuple[str, ...],
    names: tuple[str, ...],
    student: Path,
    glosses: Path,
    texts: Path | None,
    model: Path,
    data: Path,
    documents: int,
    teachers: tuple[str, ...],
) -> None:
    """Take families through the pipeline, measure coverage and gain, and write all to OUT, which keeps other keys."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if not parts or "coverage" in parts:
            rows, folders = measure(
                student, glosses, texts, documents=documents, teachers=teachers, scratch=root / "tokenizers"
            )
            known["coverage"] = rows
            write_json(out, known)
            store = DocumentStore(data / "documents")
            new = [page for split in SPLITS for page in store.read(split).column("text").to_pylist()][:PAGES]
            for kind, folder in folders.items():
                found = likelihood(new, folder, model, root / "likelihood" / kind)
                print(kind, found, flush=True)
                next(row for row in rows if (row["kind"], row["text"]) == (kind, "wordnet")).update(found)
                write_json(out, known)
        if not parts or "gain" in parts:
            text = DocumentStore(glosses).read(ALL).column("text").to_pylist()
            train_teacher("byte-bpe", [line for page in text for line in page.split("\n")], root / "byte-bpe")
            known["gain"] = gain(
                data=data,
                glosses=glosses,
                start=student,
                tokenizer=root / "byte-bpe",
                runtime=apply(RUNTIME, Workspace(root / ".work")),
                scratch=root / "gain",
            )
            write_json(out, known)
        if not parts or "families" in parts:
            known["families"] = families(names, root)
            write_json(out, known)


if __name__ == "__main__":
    main()
