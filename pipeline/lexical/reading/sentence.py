"""The senses of the words of a sentence that somebody typed: words, their lemmas, and the probability of each sense.

Words are tagged with NLTK's tagger where its data are installed. Without them a word has the senses of all its parts of
speech (`pipeline.senses.places`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.senses.instances import INSTANCES_SCHEMA, SENTENCES_SCHEMA, Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.places import find_places, open_tagger

if TYPE_CHECKING:
    from pipeline.lexical.reading.reader import SenseReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Sense:
    """A candidate of a word."""

    key: str
    pos: str
    lemmas: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word or compound of the sentence that has senses, the most probable first."""

    word: str
    start: int
    end: int
    lemma: str
    """Its lemmas with parts of speech, as "bank (NOUN), bank (VERB)"."""
    senses: tuple[Sense, ...]


def read_senses(reader: SenseReader, text: str) -> tuple[list[Word], bool]:
    """The words of a text with the probabilities of their senses; and whether parts of speech were tagged.

    The probabilities of a word add up to 1 over the senses of all its readings.
    """
    lexicon = reader.lexicon
    tagger = open_tagger()
    places = find_places(lexicon, text, tagger)
    rows: list[dict[str, Any]] = [
        {
            "instance_id": str(number),
            "sentence": 0,
            "start": place.start,
            "end": place.end,
            "lemma": place.readings[0][0],
            "pos": place.readings[0][1],
            "candidates": list(
                dict.fromkeys(row for reading in place.readings for row in lexicon.candidates(*reading))
            ),
            "gold": [],
        }
        for number, place in enumerate(places)
    ]
    sentence = {"sentence_id": "typed", "document_id": "typed", "source": "typed", "split": "heldout", "text": text}
    instances = Instances(
        sentences=pa.Table.from_pylist([sentence], schema=SENTENCES_SCHEMA),
        rows=pa.Table.from_pylist(rows, schema=INSTANCES_SCHEMA),
        identity="typed",
    )
    view, logp_C = reader.read(instances)
    words = []
    for row, start, stop in zip(view.row_I, view.candidates.start_R1, view.candidates.start_R1[1:], strict=False):
        place, p_K = places[int(row)], np.exp(logp_C[start:stop].astype(np.float64))
        order_K = np.argsort(-p_K, kind="stable")
        candidates = rows[int(row)]["candidates"]
        words.append(
            Word(
                word=text[place.start : place.end],
                start=place.start,
                end=place.end,
                lemma=", ".join(f"{lemma} ({pos})" for lemma, pos in place.readings),
                senses=tuple(_sense(lexicon, candidates[k], float(p_K[k])) for k in order_K.tolist()),
            )
        )
    return sorted(words, key=lambda word: word.start), tagger is not None


def _sense(lexicon: Lexicon, row: int, probability: float) -> Sense:
    meaning = lexicon.meanings.slice(int(lexicon.meaning_S[row]), 1).to_pylist()[0]
    return Sense(
        key=lexicon.keys[row],
        pos=meaning["pos"],
        lemmas=tuple(lemma.replace("_", " ") for lemma in meaning["lemmas"]),
        gloss=meaning["gloss"],
        examples=tuple(example.strip('" ') for example in meaning["examples"]),
        probability=probability,
    )
