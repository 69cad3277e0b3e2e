"""A lexical student opened with its sense head, scoring the candidate senses of words in context."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime
from pipeline.lexical.batches import BatchBuilder, micro_batches, open_batch_builder
from pipeline.lexical.classifier import SenseModel, candidate_scores, encode_all, log_softmax_ragged
from pipeline.models.precision import autocast
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Int
from storage.errors import SourceError, StaleParent

if TYPE_CHECKING:
    from pipeline.lexical.context import LexicalView


def score_all(
    model: SenseModel,
    batch_builder: BatchBuilder,
    *,
    pad: int,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
) -> NDArray[np.float32]:
    """Log-probabilities of every candidate of the view, along its candidates.

    A bi-encoder encodes each gloss of the view once for all words that may have that sense.
    """
    view = batch_builder.view
    found = np.zeros(len(view.candidates.flat), np.float32)
    order = np.lexsort((view.window_I, -view.windows.lengths()[view.window_I])).astype(np.int64)
    model.eval()
    with torch.inference_mode(), autocast(device, dtype):
        glosses = known_glosses(model, batch_builder, pad=pad, batch_tokens=batch_tokens)
        for rows in micro_batches(batch_builder, order, batch_tokens=batch_tokens):
            batch = batch_builder.batch(rows)
            score_C = candidate_scores(model, batch, pad=pad, device=device, glosses=glosses)
            logp_IK, exists_IK = log_softmax_ragged(score_C, batch.start_I1)
            found[batch.candidate_C] = logp_IK[exists_IK].cpu().numpy()
    return found


def known_glosses(
    model: SenseModel, batch_builder: BatchBuilder, *, pad: int, batch_tokens: int
) -> tuple[Int, torch.Tensor] | None:
    """Numbers, rising, and vectors [D, H] of all gloss texts of a view; None where no gloss is encoded alone."""
    if batch_builder.reading == "cross":
        return None
    text_D = np.unique(batch_builder.text_of_candidates())
    return text_D, encode_all(model, batch_builder.texts(text_D), pad=pad, batch_tokens=batch_tokens)


@dataclass(frozen=True, kw_only=True)
class SenseReader:
    """A lexical student in memory, with its head and inventory."""

    folder: Path
    model: Any
    tokenizer: Any
    lexicon: Lexicon
    reading: Any
    objective: str
    runtime: Runtime

    def require_lexicon(self, lexicon: Lexicon) -> None:
        """Raise StaleParent when the student learned another inventory."""
        if self.lexicon.identity != lexicon.identity:
            raise StaleParent(
                f"{self.folder}: learned inventory {self.lexicon.identity[:12]}, but the one at hand is "
                f"{lexicon.identity[:12]}. Train it again: dvc repro lexical@{self.folder.name}"
            )

    def read(self, instances: Instances, *, split: str | None = None) -> tuple[LexicalView, NDArray[np.float32]]:
        """Log-probability of every candidate of every word, along the candidates of the view that comes with it."""
        batch_builder = open_batch_builder(
            self.reading, self.objective, instances, self.lexicon, self.tokenizer, split=split
        )
        if not len(batch_builder.view):
            return batch_builder.view, np.zeros(0, np.float32)
        logp_C = score_all(
            self.model,
            batch_builder,
            pad=self.tokenizer.special["pad"],
            device=self.runtime.device,
            dtype=self.runtime.dtype,
            batch_tokens=self.runtime.batch_tokens,
        )
        return batch_builder.view, logp_C

    def answer(self, instances: Instances, *, split: str | None = None) -> dict[str, tuple[str, ...]]:
        """The most probable sense key of every word; of equals, the more usual one."""
        view, logp_C = self.read(instances, split=split)
        names = instances.rows["instance_id"].take(view.row_I).to_pylist()
        candidates = instances.rows["candidates"].take(view.row_I).to_pylist()
        return {
            name: (self.lexicon.keys[senses[int(np.argmax(logp_C[start : start + len(senses)]))]],)
            for name, senses, start in zip(names, candidates, view.candidates.start_R1.tolist(), strict=False)
        }


@contextmanager
def sense_reader(folder: Path, runtime: Runtime, *, dtype: torch.dtype = torch.float32) -> Iterator[SenseReader]:
    """Load the lexical student in `folder`, to read in `dtype` whatever `runtime` says.

    Raises SourceError when it carries no senses, SecondModelError when a model is in memory.
    """
    from safetensors.torch import load_file

    from pipeline.lexical.classifier import SenseHead, SenseModel
    from pipeline.lexical.params import (
        HEAD_FILE,
        LEXICON_FOLDER,
        READING_FILE,
        SENSES_FOLDER,
        ReadingParams,
    )
    from pipeline.models.masked_lm import load_checked, one_model
    from pipeline.text.tokenizer import load_tokenizer

    senses = folder / SENSES_FOLDER
    if not (senses / HEAD_FILE).is_file() or not (senses / READING_FILE).is_file():
        raise SourceError(
            f"{folder}: expected {SENSES_FOLDER}/{HEAD_FILE} and {SENSES_FOLDER}/{READING_FILE} of a lexical student. "
            "Train one: dvc repro lexical@NAME"
        )
    settings = json.loads((senses / READING_FILE).read_text(encoding="utf-8"))
    objective = settings.pop("objective")
    lexicon = Lexicon.open(senses / LEXICON_FOLDER)
    with one_model():
        lm = load_checked(folder)
        head = SenseHead(int(lm.config.hidden_size), "bi" if objective.startswith("bi") else "cross")
        head.load_state_dict(load_file(senses / HEAD_FILE))
        yield SenseReader(
            folder=folder,
            model=SenseModel(lm, head).to(runtime.device).eval(),
            tokenizer=load_tokenizer(folder),
            lexicon=lexicon,
            reading=ReadingParams.model_validate(settings),
            objective=objective,
            runtime=replace(runtime, dtype=dtype),
        )
