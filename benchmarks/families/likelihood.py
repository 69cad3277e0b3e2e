"""How likely a real teacher makes the true tokens at words that its vocabulary cuts like the students', and at others.

There is no trained teacher for every vocabulary, so the pair is turned round: students have the vocabulary of the kind,
and a WordPiece teacher answers. Its store is made by the stages, of a few pages, and compared on held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.families.pages import TOKENS, masked_corpus
from pipeline.core.runtime import Runtime
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.text.alignment import teacher_view
from pipeline.text.corpus_view import MaskedCorpus
from pipeline.text.params import CorpusParams
from pipeline.text.tokenizer import load_tokenizer
from pipeline.text.vocabulary import bridge, space_variants
from storage.format.arrays import sentinel
from storage.reader import Store
from storage.records.base import HELDOUT
from storage.records.logits import SparseLogits
from storage.work import Workspace

SPLIT = CorpusParams(share=1.0, calibration=0.25, heldout=0.4)


def likelihood(pages: Sequence[str], tokenizer: Path, model: Path, scratch: Path) -> dict[str, Any]:
    """Mean NLL, nats a held-out masked position, of the teacher `model` for students with the tokenizer `tokenizer`.

    `nll_same_blanks` is of words that both cut alike, `nll_new` of the others, `nll_new_without` what is known of
    these without the teacher: the frequencies of the train split's true tokens, add-one smoothed.
    """
    corpus = masked_corpus(pages, tokenizer, SPLIT, scratch)
    teach(
        teacher_params(model),
        corpus,
        out=scratch / "logits",
        runtime=Runtime(
            device=torch.device("cpu"),
            dtype=torch.float32,
            batch_tokens=4096,
            checkpoint_seconds=1e9,
            workspace=Workspace(scratch / ".work"),
        ),
        tokenizer=tokenizer,
    )
    record = Store(scratch / "logits", SparseLogits).read(HELDOUT)
    alike_P = cut_alike(corpus, model, tokenizer)
    new_P = record.covered_P() & ~alike_P
    masks = corpus.masks.read(HELDOUT)
    count_V = np.bincount(corpus.masks.read("train").label_P, minlength=len(corpus.tokens)) + 1.0
    nll_P = -record.gold_logprob_PJ[:, 1]
    return {
        "nll_positions": [int(alike_P.sum()), int(new_P.sum())],
        "nll_same_blanks": round(float(nll_P[alike_P].mean()), 4),
        "nll_new": round(float(nll_P[new_P].mean()), 4) if new_P.any() else None,
        "nll_new_without": round(float(-np.log(count_V / count_V.sum())[masks.label_P[new_P]].mean()), 4)
        if new_P.any()
        else None,
    }


def teacher_params(model: Path) -> TeacherParams:
    """What the default settings keep of a teacher."""
    return TeacherParams.model_validate(
        {
            "model": str(model),
            "keep": {"form": "nucleus", "mass": 1.0, "floor": 0.003, "least": 5, "most": 96},
            "tail": {"rank": 16, "step": 0.4},
            "temperatures": [1.0],
            "seed": 0,
        }
    )


def cut_alike(corpus: MaskedCorpus, model: Path, tokenizer: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Held-out predictions of words that both vocabularies cut alike."""
    teacher, students = load_tokenizer(model), load_tokenizer(tokenizer)
    sequences = corpus.sequences.read(HELDOUT)
    text_of = corpus.documents.read(HELDOUT).column("text").to_pylist()
    _, gold_P = teacher_view(
        [text_of[document] for document in sequences.document_N.tolist()],
        sequences,
        corpus.masks.read(HELDOUT),
        tokenizer=teacher.backend,
        to_student_V=bridge(teacher.tokens, students.tokens).to_student_V,
        special=teacher.special,
        positions=TOKENS * 4,
        variant_V=space_variants(teacher.tokens, students.tokens),
    )
    return np.asarray(gold_P != sentinel(gold_P.dtype))
