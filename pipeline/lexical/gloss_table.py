"""Vectors of glosses that a bi-encoder's training keeps for some steps, so that a step encodes few of them.

Some words of a step, drawn at random, encode the glosses of all their candidates and learn from both sides. The others
compare their contexts with the table and learn from the context alone. All candidates of a word are of one state of the
encoder, and all of them learn or none: gradients of a softmax cancel over its candidates, and those of a few of them,
however large, move all glosses in one direction (docs/results/lexical.md).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.seeds import generator
from pipeline.lexical.batches import BatchBuilder
from pipeline.lexical.classifier import SenseModel, encode_all
from pipeline.lexical.params import GlossTableParams
from pipeline.models.precision import autocast
from pipeline.text.ragged import Int


class GlossTable:
    """Vectors [D, H] of the gloss texts of a view."""

    def __init__(
        self,
        model: SenseModel,
        builder: BatchBuilder,
        params: GlossTableParams,
        *,
        pad: int,
        dtype: torch.dtype,
        batch_tokens: int,
    ) -> None:
        self.params = params
        self._model, self._builder, self._pad, self._dtype, self._batch_tokens = (
            model,
            builder,
            pad,
            dtype,
            batch_tokens,
        )
        self._text_C = builder.text_of_candidates()
        self.text_D: Int = np.unique(self._text_C)
        device = next(model.parameters()).device
        self.vector_DH = torch.zeros((len(self.text_D), int(model.lm.config.hidden_size)), device=device)

    def refresh(self, instance_I: Int) -> None:
        """Encode the glosses of all candidates of some instances as the model is now."""
        starts = self._builder.view.candidates.start_R1
        wanted_C = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in instance_I.tolist()])
        text_T = np.unique(self._text_C[wanted_C])
        # A context of its own: autocast would hand weights that it cast here, without gradients, to the step.
        with torch.no_grad(), autocast(self.vector_DH.device, self._dtype):
            texts = self._builder.texts(text_T)
            vector_TH = encode_all(self._model, texts, pad=self._pad, batch_tokens=self._batch_tokens)
            self.vector_DH[torch.from_numpy(np.searchsorted(self.text_D, text_T))] = vector_TH.float()

    def known(self) -> tuple[Int, Tensor]:
        """Numbers of the gloss texts, rising, and their vectors."""
        return self.text_D, self.vector_DH


def encoding_words(count: int, *, words: int, seed: int, step: int) -> NDArray[np.bool_]:
    """Which of a step's `count` words encode their glosses: `words` of them, drawn at random."""
    chosen = np.zeros(count, bool)
    chosen[generator(seed, "glosses", step).permutation(count)[:words]] = True
    return chosen
