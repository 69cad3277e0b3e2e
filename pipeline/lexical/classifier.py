"""Gloss classification: which of a word's candidate senses is meant in its context.

There are two readings. `cross` (LMGC, Wahle et al. 2021, arXiv 2106.07967) encodes a sequence for every candidate:
context, with the word between quotation marks, and one gloss. `bi` encodes contexts and glosses apart and compares
their vectors: a window is encoded once for all its words, a gloss once for all words that may have that sense. In both,
one softmax goes over the scores of a word's candidates. The sense head is new; no published language model has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.lexical.batches import CrossBatch, LexicalBatch
from pipeline.lexical.params import Reading
from pipeline.text.ragged import Int, Ragged

GROUPS = 4
"""The glosses of a batch are encoded in this number of groups of similar length, each padded to its longest."""


class SenseHead(nn.Module):
    """The layer that scores senses from states of an encoder of width H: one matrix (bi) or one vector (cross)."""

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
    """An encoder with its masked-LM head and a sense head, as one module for one optimiser."""

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

    def pooled(self, sequences: Ragged, *, pad: int) -> Tensor:
        """Mean of the hidden states of each sequence [B, H]."""
        return mean_pooled(*self.encode(sequences, pad=pad))


def mean_pooled(hidden_BLH: Tensor, attention_BL: Tensor) -> Tensor:
    """Mean over tokens [B, H], padding left out."""
    weight_BL1 = attention_BL[:, :, None].to(hidden_BLH.dtype)
    return (hidden_BLH * weight_BL1).sum(1) / weight_BL1.sum(1)


def encode_parts(sequences: Ragged, *, batch_tokens: int) -> list[Int]:
    """Rows of sequences in runs of similar length, of about `batch_tokens` tokens each."""
    order = np.argsort(sequences.lengths(), kind="stable").astype(np.int64)
    ends = (np.cumsum(sequences.lengths()[order]) - 1) // batch_tokens
    return [part for part in np.split(order, np.flatnonzero(np.diff(ends)) + 1) if len(part)]


def encode_all(model: SenseModel, sequences: Ragged, *, pad: int, batch_tokens: int) -> Tensor:
    """Mean-pooled sequences [R, H], any number of them, without gradients kept between the runs."""
    parts = encode_parts(sequences, batch_tokens=batch_tokens)
    pooled = torch.cat([model.pooled(sequences.take(part), pad=pad) for part in parts])
    back = torch.from_numpy(np.argsort(np.concatenate(parts), kind="stable")).to(pooled.device)
    return pooled[back]


def span_means(hidden_BLH: Tensor, row_I: Tensor, first_I: Tensor, last_I: Tensor) -> Tensor:
    """Mean over the tokens of each word [I, H]; word i is columns first[i] to last[i] of row[i]."""
    width = int((last_I - first_I).max())
    column_IW = first_I[:, None] + torch.arange(width, device=hidden_BLH.device)
    weight_IW1 = (column_IW < last_I[:, None])[:, :, None].to(hidden_BLH.dtype)
    taken_IWH = hidden_BLH[row_I[:, None], column_IW.clamp_max(hidden_BLH.shape[1] - 1)]
    return (taken_IWH * weight_IW1).sum(1) / weight_IW1.sum(1)


def encode_pooled(model: SenseModel, sequences: Ragged, *, pad: int) -> Tensor:
    """Mean-pooled sequences [R, H], encoded in a few groups of similar length: the lengths of glosses vary widely."""
    order = np.argsort(sequences.lengths(), kind="stable").astype(np.int64)
    groups = [part for part in np.array_split(order, GROUPS) if len(part)]
    pooled = torch.cat([model.pooled(sequences.take(part), pad=pad) for part in groups])
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
    """Scores [C] of all candidates of the batch, float32.

    glosses are numbers of gloss texts, rising, and their vectors [D, H], where a bi-encoder has encoded them before.
    """
    if isinstance(batch, CrossBatch):
        hidden, attention = model.encode(batch.sequences, pad=pad, segment=batch.segments)
        return model.head.sequences(mean_pooled(hidden, attention))
    hidden, _ = model.encode(batch.windows, pad=pad)
    row_I, first_I, last_I, gloss_C = (
        torch.from_numpy(part).to(device, non_blocking=True)
        for part in (batch.window_I, batch.first_I, batch.last_I, batch.gloss_C)
    )
    counts = torch.from_numpy(np.diff(batch.start_I1)).to(device, non_blocking=True)
    instance_C = torch.repeat_interleave(counts, output_size=len(batch.gloss_C))
    if glosses is None:
        gloss = encode_pooled(model, batch.glosses, pad=pad)
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
    score_C: Tensor, start_I1: NDArray[np.int64], gold_C: NDArray[np.bool_], soft_label_C: NDArray[np.float32] | None
) -> tuple[Tensor, Tensor]:
    """Sums over instances, nats: -log of the mass on right senses, and cross-entropy with a teacher's soft labels.

    Instances without gold have no part in the first, without soft labels (NaN) none in the second.
    """
    logp_IK, exists_IK = log_softmax_ragged(score_C, start_I1)
    gold_IK = torch.zeros_like(exists_IK).masked_scatter(
        exists_IK, torch.from_numpy(gold_C).to(score_C.device, non_blocking=True)
    )
    known_I = gold_IK.any(1)
    right_I = logp_IK.masked_fill(~gold_IK, -torch.inf)
    right_I = torch.logsumexp(right_I.masked_fill(~known_I[:, None], 0.0), dim=1)
    gold = -(right_I * known_I).sum()
    if soft_label_C is None:
        return gold, gold.new_zeros(())
    soft_label = torch.from_numpy(np.nan_to_num(soft_label_C)).to(score_C.device, non_blocking=True)
    soft_label_IK = torch.zeros_like(logp_IK).masked_scatter(exists_IK, soft_label)
    taught = -(soft_label_IK * logp_IK.masked_fill(~exists_IK, 0.0)).sum()
    return gold, taught
