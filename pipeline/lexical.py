"""Gloss classification: which of a word's candidate senses its context shows.

Two ways to read. `cross` (LMGC, Wahle et al. 2021, arXiv 2106.07967): context with the word between quotation marks and
one gloss in one sequence, once for every candidate. `bi`: context and gloss read once each and compared; a sentence is
read once for all its words, a gloss once for all that may mean it. In both, scores of one word's candidates go
through one softmax. The weights beside the encoder are a head that no published language model carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.lexical_view import Int, LexicalView, Ragged

if TYPE_CHECKING:
    from pipeline.tokens import FastTokenizer

Reading = Literal["cross", "bi"]

GROUPS = 4
"""Groups of like length that glosses of a batch are encoded in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LexicalBatch:
    """I instances with C candidates in all, as arrays; D distinct sequences on the gloss side (bi)."""

    context: Ragged
    """Sequences that hold the word: windows (bi) or one a candidate with its gloss (cross)."""
    segment: Ragged | None
    """Token types of `context` (cross)."""
    gloss: Ragged | None
    """Distinct glosses (bi)."""
    text_D: Int
    """Numbers of the distinct glosses (bi)."""
    sequence_I: Int
    """Context of each instance (bi)."""
    first_I: Int
    last_I: Int
    gloss_C: Int
    """Gloss of each candidate (bi), or its sequence (cross)."""
    start_I1: Int
    """Candidates of instance i are start[i] to start[i + 1]."""
    instance_I: Int
    """Instances in the view."""
    candidate_C: Int
    """Candidates in the view."""


class SenseHead(nn.Module):
    """What scores senses on top of an encoder of width H: one matrix (bi) or one vector (cross)."""

    def __init__(self, width: int, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        if reading == "bi":
            self.context = nn.Linear(width, width)
            self.scale = nn.Parameter(torch.tensor(3.0))
            with torch.no_grad():
                nn.init.eye_(self.context.weight)
                nn.init.zeros_(self.context.bias)
        else:
            self.score = nn.Linear(width, 1)
            with torch.no_grad():
                nn.init.zeros_(self.score.weight)
                nn.init.zeros_(self.score.bias)

    def pairs(self, word_IH: Tensor, gloss_DH: Tensor, instance_C: Tensor, gloss_C: Tensor) -> Tensor:
        """Scores [C]: scaled cosine of the word, through a matrix, and the gloss."""
        word_IH = nn.functional.normalize(self.context(word_IH.float()), dim=-1)
        gloss_DH = nn.functional.normalize(gloss_DH.float(), dim=-1)
        scores: Tensor = self.scale.exp() * (word_IH[instance_C] * gloss_DH[gloss_C]).sum(-1)
        return scores

    def sequences(self, pooled_CH: Tensor) -> Tensor:
        """Scores [C] of sequences that hold context and gloss."""
        scores: Tensor = self.score(pooled_CH.float()).squeeze(-1)
        return scores


class SenseModel(nn.Module):
    """An encoder with its masked-LM head, and the sense head beside it: one module, so that one optimiser sees all."""

    def __init__(self, lm: Any, head: SenseHead) -> None:
        super().__init__()
        self.lm = lm
        self.head = head

    def encode(self, sequences: Ragged, *, pad: int, segment: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states [B, L, H] and attention [B, L] (1 at tokens, 0 at padding) of whole sequences."""
        device = self.head.state_dict()[next(iter(self.head.state_dict()))].device
        ids_BL, attention_BL = (torch.from_numpy(part).to(device, non_blocking=True) for part in sequences.padded(pad))
        more = {}
        if segment is not None and getattr(self.lm.config, "type_vocab_size", 0) > 1:
            more["token_type_ids"] = torch.from_numpy(segment.padded(0)[0]).to(device, non_blocking=True)
        hidden_BLH = self.lm.base_model(input_ids=ids_BL, attention_mask=attention_BL, **more).last_hidden_state
        return hidden_BLH, attention_BL


def mean_pooled(hidden_BLH: Tensor, attention_BL: Tensor) -> Tensor:
    """Mean over tokens [B, H], padding left out."""
    weight_BL1 = attention_BL[:, :, None].to(hidden_BLH.dtype)
    return (hidden_BLH * weight_BL1).sum(1) / weight_BL1.sum(1)


def span_means(hidden_BLH: Tensor, row_I: Tensor, first_I: Tensor, last_I: Tensor) -> Tensor:
    """Mean over the tokens of each word [I, H]; word i is columns first[i] to last[i] of row[i]."""
    width = int((last_I - first_I).max())
    column_IW = first_I[:, None] + torch.arange(width, device=hidden_BLH.device)
    weight_IW1 = (column_IW < last_I[:, None])[:, :, None].to(hidden_BLH.dtype)
    taken_IWH = hidden_BLH[row_I[:, None], column_IW.clamp_max(hidden_BLH.shape[1] - 1)]
    return (taken_IWH * weight_IW1).sum(1) / weight_IW1.sum(1)


def encode_pooled(model: SenseModel, sequences: Ragged, *, pad: int) -> Tensor:
    """Mean-pooled sequences [R, H], encoded in a few groups of like length: gloss texts differ much."""
    order = np.argsort(sequences.lengths(), kind="stable").astype(np.int64)
    groups = [part for part in np.array_split(order, GROUPS) if len(part)]
    pooled = torch.cat([mean_pooled(*model.encode(sequences.take(part), pad=pad)) for part in groups])
    back = torch.from_numpy(np.argsort(order, kind="stable")).to(pooled.device, non_blocking=True)
    return pooled[back]


def candidate_scores(
    model: SenseModel,
    batch: LexicalBatch,
    *,
    pad: int,
    device: torch.device,
    glosses: tuple[Int, Tensor] | None = None,
) -> Tensor:
    """Scores [C] of all candidates of the batch, float32; `glosses` are numbers and vectors that are known already."""
    if batch.gloss is None:
        hidden, attention = model.encode(batch.context, pad=pad, segment=batch.segment)
        return model.head.sequences(mean_pooled(hidden, attention))
    hidden, _ = model.encode(batch.context, pad=pad)
    row_I, first_I, last_I, gloss_C = (
        torch.from_numpy(part).to(device, non_blocking=True)
        for part in (batch.sequence_I, batch.first_I, batch.last_I, batch.gloss_C)
    )
    counts = torch.from_numpy(np.diff(batch.start_I1)).to(device, non_blocking=True)
    instance_C = torch.repeat_interleave(counts, output_size=len(batch.gloss_C))
    if glosses is None:
        gloss = encode_pooled(model, batch.gloss, pad=pad)
    else:
        place = np.searchsorted(glosses[0], batch.text_D)
        gloss = glosses[1][torch.from_numpy(place).to(device, non_blocking=True)]
    return model.head.pairs(span_means(hidden, row_I, first_I, last_I), gloss, instance_C, gloss_C)


def log_softmax_ragged(score_C: Tensor, start_I1: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Log-probabilities over each instance's candidates [I, most] and which entries exist."""
    counts = np.diff(start_I1)
    place = np.arange(int(counts.max(initial=1))) < counts[:, None]
    exists_IK = torch.from_numpy(place).to(score_C.device, non_blocking=True)
    full_IK = score_C.new_full(place.shape, -torch.inf)
    full_IK = full_IK.masked_scatter(exists_IK, score_C)
    return torch.log_softmax(full_IK, dim=1), exists_IK


def sense_loss(
    score_C: Tensor, start_I1: NDArray[np.int64], gold_C: NDArray[np.bool_], belief_C: NDArray[np.float32] | None
) -> tuple[Tensor, Tensor]:
    """Sums over instances, nats: -log of the mass on right senses, and cross-entropy with a teacher's beliefs.

    Instances without gold have no part in the first, without beliefs (NaN) none in the second.
    """
    logp_IK, exists_IK = log_softmax_ragged(score_C, start_I1)
    gold_IK = torch.zeros_like(exists_IK).masked_scatter(
        exists_IK, torch.from_numpy(gold_C).to(score_C.device, non_blocking=True)
    )
    known_I = gold_IK.any(1)
    right_I = logp_IK.masked_fill(~gold_IK, -torch.inf)
    right_I = torch.logsumexp(right_I.masked_fill(~known_I[:, None], 0.0), dim=1)
    gold = -(right_I * known_I).sum()
    if belief_C is None:
        return gold, gold.new_zeros(())
    belief = torch.from_numpy(np.nan_to_num(belief_C)).to(score_C.device, non_blocking=True)
    belief_IK = torch.zeros_like(logp_IK).masked_scatter(exists_IK, belief)
    taught = -(belief_IK * logp_IK.masked_fill(~exists_IK, 0.0)).sum()
    return gold, taught


class Composer:
    """Makes batches of a view for one way of reading."""

    def __init__(
        self,
        view: LexicalView,
        *,
        reading: Reading,
        full: Ragged,
        bare: Ragged,
        tokenizer: FastTokenizer,
    ) -> None:
        self.view, self.reading, self.full, self.bare, self.tokenizer = view, reading, full, bare, tokenizer
        quote = tokenizer.backend.encode('"', add_special_tokens=False).ids
        self._quote = np.array(quote, np.int32)

    def batch(self, instance_I: Int, *, kept: NDArray[np.bool_] | None = None) -> LexicalBatch:
        """The batch of some instances, with the candidates that `kept` [all candidates of the view] allows."""
        view = self.view
        length = view.candidates.lengths()[instance_I]
        start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        candidate_C = np.arange(start[-1]) + np.repeat(view.candidates.start_R1[instance_I] - start[:-1], length)
        if kept is not None:
            keep_C = kept[candidate_C]
            length = np.add.reduceat(keep_C.astype(np.int64), start[:-1])
            candidate_C = candidate_C[keep_C]
            start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        # An example must not be found again in its own gloss.
        text_C = view.candidates.flat[candidate_C] * 2 + np.repeat(view.bare_I[instance_I], length)
        if self.reading == "bi":
            return self._bi(instance_I, start, candidate_C, text_C)
        return self._cross(instance_I, start, candidate_C, text_C)

    def text_of_candidates(self) -> Int:
        """Number of the gloss text of every candidate of the view."""
        bare_C = np.repeat(self.view.bare_I, self.view.candidates.lengths())
        return np.asarray(self.view.candidates.flat * 2 + bare_C)

    def _bi(self, instance_I: Int, start: Int, candidate_C: Int, text_C: Int) -> LexicalBatch:
        window_W, sequence_I = np.unique(self.view.window_I[instance_I], return_inverse=True)
        text_D, gloss_C = np.unique(text_C, return_inverse=True)
        return LexicalBatch(
            context=self.view.windows.take(window_W),
            segment=None,
            gloss=self.texts(text_D),
            text_D=text_D,
            sequence_I=sequence_I.astype(np.int64),
            first_I=self.view.first_I[instance_I],
            last_I=self.view.last_I[instance_I],
            gloss_C=gloss_C.astype(np.int64),
            start_I1=start,
            instance_I=instance_I,
            candidate_C=candidate_C,
        )

    def texts(self, text_D: Int) -> Ragged:
        """Gloss texts: even numbers whole, odd ones without examples."""
        rows = [(self.bare if text % 2 else self.full)[text // 2] for text in text_D.tolist()]
        return Ragged.of(rows, np.int32)

    def _cross(self, instance_I: Int, start: Int, candidate_C: Int, text_C: Int) -> LexicalBatch:
        prefix = len(self.tokenizer.prefix)
        sequences, segments = [], []
        for number, instance in enumerate(instance_I.tolist()):
            window = self.view.windows[int(self.view.window_I[instance])]
            first, last = int(self.view.first_I[instance]), int(self.view.last_I[instance])
            context = np.concatenate([window[:first], self._quote, window[first:last], self._quote, window[last:]])
            for text in text_C[start[number] : start[number + 1]].tolist():
                gloss = (self.bare if text % 2 else self.full)[text // 2][prefix:]
                sequences.append(np.concatenate([context, gloss]))
                segments.append(np.repeat([0, 1], [len(context), len(gloss)]))
        return LexicalBatch(
            context=Ragged.of(sequences, np.int32),
            segment=Ragged.of(segments, np.int32),
            gloss=None,
            text_D=np.zeros(0, np.int64),
            sequence_I=np.arange(len(instance_I)),
            first_I=self.view.first_I[instance_I],
            last_I=self.view.last_I[instance_I],
            gloss_C=np.arange(len(candidate_C)),
            start_I1=start,
            instance_I=instance_I,
            candidate_C=candidate_C,
        )
