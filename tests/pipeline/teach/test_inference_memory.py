"""A split's memory does not depend on how many windows a document is cut into."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from pipeline.teach.inference import TeacherInputs
from pipeline.text.corpus_view import MaskedCorpus
from pipeline.text.tokenizer import FastTokenizer
from storage.records.sequences import Masks, Sequences


class One:
    """A store that reads `value`, whatever is asked for."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def read(self, _: str) -> Any:
        return self.value


def test_the_windows_of_a_document_share_its_text() -> None:
    """By identity: a copy each would be equal, and take memory by the square of a document's length."""
    sequences = SimpleNamespace(document_N=np.array([1, 0, 1, 1], np.uint32))
    teacher_inputs = TeacherInputs(
        corpus=MaskedCorpus(
            documents=cast(Any, One(pa.table({"text": ["short", "a long book"]}))),
            sequences=cast(Any, One(cast(Sequences, sequences))),
            masks=cast(Any, One(cast(Masks, SimpleNamespace()))),
        ),
        tokenizer=cast(FastTokenizer, None),
        variant_V=None,
        to_student_V=np.zeros(0, np.int64),
        positions=0,
        batch_tokens=1,
    )
    texts = teacher_inputs.split("train").texts
    assert texts == ["a long book", "short", "a long book", "a long book"]
    assert texts[0] is texts[2] is texts[3]
