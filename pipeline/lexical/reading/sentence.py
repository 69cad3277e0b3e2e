"""The senses of the words of a sentence that somebody typed: words, their lemmas, and the probability of each sense.

Words are tagged with NLTK's tagger where its data are installed. Without them a word has the senses of all its parts of
speech, and words of closed classes are left out. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.senses.instances import INSTANCES_SCHEMA, SENTENCES_SCHEMA, WORD, Instances
from pipeline.senses.lexicon import DOUBLING, ENDINGS, POS, Lexicon

if TYPE_CHECKING:
    from pipeline.lexical.reading.reader import SenseReader

TAGGER = "taggers/averaged_perceptron_tagger_eng"
"""Among NLTK's data."""

PENN = {"N": "NOUN", "V": "VERB", "J": "ADJ", "R": "ADV"}
"""First letter of a tag of the Penn treebank to the tag of the inventory."""

COMPOUND = 4
"""Words of the longest compound that is looked up ("United States of America")."""

_CLOSED = """
a about after all an and any are as at be been being but by can could did do does for from had has have he her him his
how i if in into is it its may me might must my no nor not of off on onto or our out over shall she should so some than
that the their them then there these they this those to under up us was we were what when where which who whom whose
why will with would you your
"""
CLOSED = frozenset(_CLOSED.split())
"""Words that WordNet knows as nouns or verbs but that seldom are ("a", "in", "was"); left out without a tagger."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A place in the sentence with the lemmas and parts of speech that it may have."""

    start: int
    end: int
    readings: tuple[tuple[str, str], ...]


def stems_of(lexicon: Lexicon, word: str, pos: str) -> tuple[str, ...]:
    """What a word in lower case may be a form of: listed forms, itself, and by rules of detachment (morphy(7WN))."""
    stems = [word]
    for ending, new in ENDINGS.get(pos, ()):
        if word.endswith(ending):
            stem = word[: -len(ending)] + new
            stems.append(stem)
            if ending in DOUBLING and stem[-1:] == stem[-2:-1]:
                stems.append(stem[:-1])
    forms = lexicon.forms.filter((pc.field("form") == word) & (pc.field("pos") == pos))
    return tuple(dict.fromkeys([*forms["lemma"].to_pylist(), *stems]))


def tags_of(words: list[str]) -> list[tuple[str, ...]] | None:
    """Part of speech of each word by NLTK's tagger, none for those without senses; None without the tagger's data."""
    import nltk

    try:
        nltk.data.find(TAGGER)
    except LookupError:
        return None
    return [(PENN[tag[0]],) if tag[0] in PENN else () for _, tag in nltk.pos_tag(words)]


def read_places(lexicon: Lexicon, text: str) -> tuple[list[Reading], bool]:
    """Words and compounds of the inventory in a text, the longest at each place; and whether the words were tagged."""
    found = [(match.group(), match.start(), match.end()) for match in WORD.finditer(text)]
    tags = tags_of([word for word, _, _ in found])
    places: list[Reading] = []
    at = 0
    while at < len(found):
        for length in range(min(COMPOUND, len(found) - at), 0, -1):
            run = found[at : at + length]
            allowed: tuple[str, ...] = POS
            if length == 1 and tags is not None:
                allowed = tags[at]
            elif length == 1 and run[0][0].lower() in CLOSED:
                allowed = ()
            readings = tuple(_readings(lexicon, [word.lower() for word, _, _ in run], allowed))
            if readings:
                places.append(Reading(start=run[0][1], end=run[-1][2], readings=readings))
                break
        at += length
    return places, tags is not None


def _readings(lexicon: Lexicon, words: list[str], allowed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Lemmas with parts of speech; of a compound the first word of a verb, else the last, may be inflected."""
    for pos in allowed:
        inflected = 0 if pos == "VERB" else len(words) - 1
        for stem in stems_of(lexicon, words[inflected], pos):
            lemma = "_".join([*words[:inflected], stem, *words[inflected + 1 :]])
            if lexicon.candidates(lemma, pos):
                yield lemma, pos


def read_senses(reader: SenseReader, text: str) -> tuple[list[Word], bool]:
    """The words of a text with the probabilities of their senses; and whether parts of speech were tagged.

    The probabilities of a word add up to 1 over the senses of all its readings.
    """
    lexicon = reader.lexicon
    places, tagged = read_places(lexicon, text)
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
    return sorted(words, key=lambda word: word.start), tagged


def _candidates(lexicon: Lexicon, place: Reading) -> list[int]:
    """Rows of the senses of all readings, each once."""
    return list(dict.fromkeys(row for reading in place.readings for row in lexicon.candidates(*reading)))


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
