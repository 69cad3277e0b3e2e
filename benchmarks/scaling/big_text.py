"""Generate a corpus of any size from texts: documents of runs of sentences from many places, some of them again.

    python -m benchmarks.scaling.big_text --source FOLDER --out FOLDER --megabytes 5000

Reads JSON Lines (`text`), writes JSON Lines in files of some 100 MB. A document takes sentences from random places, so
that two documents share little; one of 50 is an earlier document again, and one of 50 an earlier one with a word
changed. The same source, size and seed give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from pipeline.core.endings import JSON_LINES
from pipeline.text.documents.files import input_files
from pipeline.text.documents.readers import read_json_lines
from pipeline.text.documents.records import Fields, Found

POOL_CHARACTERS = 60_000_000
"""Of the source, in the order of its files, each in turn; in memory."""
FILE_BYTES = 100_000_000
RUN_SENTENCES = 4
SENTENCE = re.compile(r"(?<=[.!?])\s+")
AGAIN, ALTERED = 0.02, 0.04
"""Share of documents that are an earlier one, and of those and the altered ones."""
EARLIER = 1000
"""How many documents are remembered to be given again."""


def sentences(source: Path) -> list[str]:
    """Sentences of the source, about POOL_CHARACTERS in all, of every file as much as it has up to its share."""
    files = input_files(source, JSON_LINES)
    pool: list[str] = []
    for file in files:
        room = POOL_CHARACTERS // len(files)
        for item in read_json_lines(file, Fields(text="text", name=None), lambda _: None):
            if isinstance(item, Found) and room > 0:
                pool += [part for part in SENTENCE.split(item.text) if part]
                room -= len(item.text)
    return pool


def documents(pool: list[str], *, seed: int) -> Iterator[str]:
    """Texts without end; a run of sentences a time, 1 to 12 runs, more often few."""
    rng = np.random.default_rng(seed)
    earlier: list[str] = []
    while True:
        what = rng.random()
        if earlier and what < ALTERED:
            text = earlier[int(rng.integers(len(earlier)))]
            if what >= AGAIN:
                words = text.split(" ")
                words[int(rng.integers(len(words)))] = f"altered{int(rng.integers(10**6))}"
                text = " ".join(words)
            yield text
            continue
        places = rng.integers(len(pool) - RUN_SENTENCES, size=1 + min(11, int(rng.exponential(3))))
        text = "\n".join(" ".join(pool[place : place + RUN_SENTENCES]) for place in places.tolist())
        if len(earlier) < EARLIER:
            earlier.append(text)
        else:
            earlier[int(rng.integers(EARLIER))] = text
        yield text


@click.command()
@click.option("--source", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--megabytes", type=int, required=True, help="Of text, UTF-8.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(source: Path, out: Path, megabytes: int, seed: int) -> None:
    """Write files `00000.jsonl` and so on."""
    out.mkdir(parents=True)
    left, number, made = megabytes * 10**6, 0, enumerate(documents(sentences(source), seed=seed))
    while left > 0:
        room = min(left, FILE_BYTES)
        with (out / f"{number:05}.jsonl").open("w", encoding="utf-8") as stream:
            while room > 0:
                name, text = next(made)
                stream.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
                size = len(text.encode())
                room, left = room - size, left - size
        number += 1


if __name__ == "__main__":
    main()
