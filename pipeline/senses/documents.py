"""Words in documents that nobody annotated: lemma and part of speech by NLTK's tagger and WordNet's morphology.

Only words with several senses, each with the first lemma of its tagged part of speech, as WordNet's morphy(7WN) takes
it. Sentences without such words stay where others of their document have some: they are context.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from pipeline.core.seeds import unit_hash
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.marked import Marked, Span
from pipeline.senses.places import TAGGER, Tagger, find_places, open_tagger
from pipeline.text.sentences import sentence_spans
from storage.documents import DocumentStore
from storage.errors import SourceError

SPLIT = "train"
"""Held-out documents evaluate language models, and calibration documents choose settings."""


class Text(NamedTuple):
    """A document."""

    name: str
    source: str
    text: str


class _Kept(NamedTuple):
    """A document among those with the smallest hashes; of several, the one with the largest hash sorts first."""

    minus_hash: float
    position: int
    words: int
    marked: tuple[Marked, ...]


def require_tagger() -> Tagger:
    """NLTK's tagger; raises SourceError where its data are not installed."""
    tagger = open_tagger()
    if tagger is None:
        name = TAGGER.rpartition("/")[2]
        raise SourceError(
            f"senses of kind text: no data of NLTK's tagger ({TAGGER}) in the folders of nltk.data.path. Run: "
            f"python -m nltk.downloader {name}"
        )
    return tagger


def texts_of(store: DocumentStore) -> Iterator[Text]:
    """The documents to learn from, from disk one after the other."""
    for batch in store.batches(SPLIT, columns=("doc_id", "source", "text")):
        columns = (batch.column(name).to_pylist() for name in ("doc_id", "source", "text"))
        yield from map(Text, *columns)


def from_documents(
    texts: Iterable[Text], lexicon: Lexicon, tagger: Tagger, *, name: str, most_words: int | None
) -> Iterator[Marked]:
    """The sentences of documents with their words, in order; with `most_words` those of some documents.

    These have the smallest hashes of their name under `name`, whatever the order of all. They are whole, but for words
    of the last of them. Memory grows with `most_words`, and few of the other documents are tagged.
    """
    if most_words is None:
        for text in texts:
            sentences = list(marked_document(text, lexicon, tagger))
            if any(sentence.spans for sentence in sentences):
                yield from sentences
        return
    kept: list[_Kept] = []
    total = 0
    for position, text in enumerate(texts):
        minus_hash = -unit_hash("words", name, text.name)
        if total >= most_words and (minus_hash, position) < kept[0][:2]:
            continue
        marked = tuple(marked_document(text, lexicon, tagger))
        words = sum(len(sentence.spans) for sentence in marked)
        if not words:
            continue
        heapq.heappush(kept, _Kept(minus_hash, position, words, marked))
        total += words
        while total - kept[0].words >= most_words:
            total -= heapq.heappop(kept).words
    last = kept[0].position if kept else None
    for document in sorted(kept, key=lambda document: document.position):
        room = document.words - (max(0, total - most_words) if document.position == last else 0)
        for sentence in document.marked:
            yield replace(sentence, spans=sentence.spans[:room])
            room = max(0, room - len(sentence.spans))


def marked_document(text: Text, lexicon: Lexicon, tagger: Tagger) -> Iterator[Marked]:
    """The sentences of a document, each tagged alone."""
    for number, (start, end) in enumerate(sentence_spans(text.text)):
        sentence, identifier = text.text[start:end], f"{text.name}.s{number}"
        spans: list[Span] = []
        for place in find_places(lexicon, sentence, tagger):
            lemma, pos = place.agreed[0] if place.agreed else ("", "")
            if len(lexicon.candidates(lemma, pos)) > 1:
                word = f"{identifier}.t{len(spans)}"
                spans.append(Span(instance_id=word, start=place.start, end=place.end, lemma=lemma, pos=pos, gold=()))
        yield Marked(
            sentence_id=identifier, document_id=text.name, source=text.source, text=sentence, spans=tuple(spans)
        )
