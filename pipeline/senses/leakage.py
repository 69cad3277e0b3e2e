"""Find instances whose training text is in a held-out document: they would leak the language model's test set.

Documents may be made from the sense inventory and then hold its glosses and examples. A lexical student is trained on
the glosses and examples of candidate senses. Those that stand word for word in a held-out document are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

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


def shows_heldout(instances: Instances, lexicon: Lexicon, documents: Sequence[str]) -> NDArray[np.bool_]:
    """Bool [R]: instances with a sentence of their text, or a gloss or example of a candidate, in a document.

    Any sentence of the instance's text counts, because the context of a word goes beyond its own sentence.
    """
    text_S = instances.sentences["document_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    stands_S = standing_in(instances.sentences["text"].to_pylist(), documents)
    sentence_of = instances.rows["sentence"].to_numpy()
    shown_R: NDArray[np.bool_] = np.isin(text_S, text_S[stands_S])[sentence_of]
    seen_M = standing_in(lexicon.meanings["gloss"].to_pylist(), documents)
    examples = lexicon.meanings["examples"].combine_chunks()
    quoted = standing_in(examples.flatten().to_pylist(), documents)
    seen_M[examples.value_parent_indices().to_numpy()[quoted]] = True
    candidates = instances.rows["candidates"].combine_chunks()
    senses = candidates.flatten().to_numpy()
    row_C = candidates.value_parent_indices().to_numpy()
    shown_R[row_C[seen_M[lexicon.meaning_S[senses]]]] = True
    return shown_R


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))
