"""Find words in context whose text or glosses are in documents: each would leak a test set of the other task.

Documents may be made from the sense inventory and then hold its glosses and examples. A lexical student is trained on
the glosses and examples of candidate senses. Those that stand word for word in a held-out document are left out, as
they would leak the language model's test set. In the other direction, a language model that was trained on a held-out
word's sentence, or on a gloss of its right sense, has read the answer. Such words are not scored.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon

LEAST_WORDS = 6
"""Shorter texts ("a kind of tree") stand in many documents by coincidence."""

WORD = re.compile(r"\w+")


def standing_in(texts: Sequence[str], documents: Iterable[str]) -> NDArray[np.bool_]:
    """Bool [N]: which of N texts of `LEAST_WORDS` words or more stand in a document, without case and punctuation.

    Memory grows with the texts, not with the documents.
    """
    words_N = [_words(text) for text in texts]
    begun: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, words in enumerate(words_N):
        if len(words) >= LEAST_WORDS:
            begun[words[:LEAST_WORDS]].append(number)
    found_N = np.zeros(len(texts), np.bool_)
    for document in documents:
        words = _words(document)
        for place in range(len(words) - LEAST_WORDS + 1):
            for number in begun.get(words[place : place + LEAST_WORDS], ()):
                found_N[number] |= words[place : place + len(words_N[number])] == words_N[number]
    return found_N


def shows_heldout(instances: Instances, lexicon: Lexicon, documents: Iterable[str]) -> NDArray[np.bool_]:
    """Bool [R]: instances with a sentence of their text, or a gloss or example of a candidate, in a held-out document.

    Any sentence of the instance's text counts, because the context of a word goes beyond its own sentence.
    """
    return _stands(instances, lexicon, documents, senses="candidates")


def shown_in_training(instances: Instances, lexicon: Lexicon, documents: Iterable[str]) -> NDArray[np.bool_]:
    """Bool [R]: instances with a sentence of their text, or a gloss or example of a right sense, in a document.

    documents are those that a language model was trained on.
    """
    return _stands(instances, lexicon, documents, senses="gold")


def _stands(
    instances: Instances, lexicon: Lexicon, documents: Iterable[str], *, senses: Literal["candidates", "gold"]
) -> NDArray[np.bool_]:
    text_S = instances.sentences["document_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    examples = lexicon.meanings["examples"].combine_chunks()
    columns = [instances.sentences["text"], lexicon.meanings["gloss"], examples.flatten()]
    # At once: the documents may be read from disk.
    found = standing_in([text for column in columns for text in column.to_pylist()], documents)
    stands_S, seen_M, quoted = np.split(found, np.cumsum([len(column) for column in columns])[:-1])
    sentence_of = instances.rows["sentence"].to_numpy()
    shown_R: NDArray[np.bool_] = np.isin(text_S, text_S[stands_S])[sentence_of]
    seen_M[examples.value_parent_indices().to_numpy()[quoted]] = True
    listed = instances.rows[senses].combine_chunks()
    row_C = listed.value_parent_indices().to_numpy()
    shown_R[row_C[seen_M[lexicon.meaning_S[listed.flatten().to_numpy()]]]] = True
    return shown_R


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))
