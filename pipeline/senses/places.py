"""Words and compounds of the inventory in running text, with the lemmas and parts of speech that they may have.

Words are tagged with NLTK's tagger where its data are installed. Without them a word has all its parts of speech, and
words of closed classes are left out. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.senses.lexicon import POS, Lexicon
from pipeline.senses.marked import WORD
from storage.format.manifest import digest

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
class Place:
    """A word or compound in a text."""

    start: int
    end: int
    readings: tuple[tuple[str, str], ...]
    """Lemmas and parts of speech that it may have."""
    agreed: tuple[tuple[str, str], ...]
    """Those that agree with the tag of the word that is inflected; without a tagger all."""


class Tagger:
    """NLTK's averaged perceptron tagger of English, loaded from NLTK's data."""

    def __init__(self) -> None:
        from nltk.tag import PerceptronTagger

        self._tagger: Any = PerceptronTagger()

    @property
    def identity(self) -> str:
        """Digest of what it learned."""
        weights, tags, classes = self._tagger.encode_json_obj()
        return digest({"weights": weights, "tags": tags, "classes": sorted(classes)})

    def tags(self, words: Sequence[str]) -> list[tuple[str, ...]]:
        """Part of speech of each word of a sentence; none for those without senses."""
        return [(PENN[tag[0]],) if tag[0] in PENN else () for _, tag in self._tagger.tag(list(words))]


def open_tagger() -> Tagger | None:
    """The tagger, or None where its data are not installed."""
    import nltk

    try:
        nltk.data.find(f"{TAGGER}/")
    except LookupError:
        return None
    return Tagger()


def find_places(lexicon: Lexicon, text: str, tagger: Tagger | None) -> list[Place]:
    """Words and compounds of the inventory in a sentence, the longest at each place."""
    found = [(match.group(), match.start(), match.end()) for match in WORD.finditer(text)]
    words = [word.lower() for word, _, _ in found]
    tags = None if tagger is None else tagger.tags([word for word, _, _ in found])
    places: list[Place] = []
    at = 0
    while at < len(found):
        for length in range(min(COMPOUND, len(found) - at), 0, -1):
            last = at + length - 1
            allowed: tuple[str, ...] = POS
            if length == 1 and tags is not None:
                allowed = tags[at]
            elif length == 1 and words[at] in CLOSED:
                allowed = ()
            readings = tuple(_readings(lexicon, words[at : last + 1], allowed))
            if readings:
                agreed = readings
                if tags is not None:
                    agreed = tuple(one for one in readings if one[1] in tags[at if one[1] == "VERB" else last])
                places.append(Place(start=found[at][1], end=found[last][2], readings=readings, agreed=agreed))
                break
        at += length
    return places


def _readings(lexicon: Lexicon, words: Sequence[str], allowed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Lemmas with parts of speech; of a compound the first word of a verb, else the last, may be inflected."""
    for pos in allowed:
        inflected = 0 if pos == "VERB" else len(words) - 1
        for stem in lexicon.stems(words[inflected], pos):
            lemma = "_".join([*words[:inflected], stem, *words[inflected + 1 :]])
            if lexicon.candidates(lemma, pos):
                yield lemma, pos
