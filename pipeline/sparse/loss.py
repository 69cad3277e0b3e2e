"""The loss of a student: sums over rows with their counts, never means.

The caller divides once, by the count of the whole step, so that cutting a step into micro-batches changes no row's
weight. Targets stay sparse: a restored tail is computed for a few rows at a time, and there is no dense
[batch, vocabulary] target. Memory beside the logits is one buffer of their size. The forward computes the gradient in
it, and one backward uses it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.sparse.params import Tail
from pipeline.sparse.tail import tail_chunk

if TYPE_CHECKING:
    from storage.reader import Store
    from storage.records.targets import FusedTargets


BUCKET_MINIMUM = 1e-6
"""Least mass of a student outside the list: 1 minus a float32 sum is not more exact than this."""

TAIL_CHUNK_ELEMENTS = 2**19
"""Restored probabilities computed at once: 2 MB, so that they stay in the processor's cache."""

TAIL_CHUNK_ELEMENTS_GPU = 2**25
"""The same on other devices: 128 MB, for few and large kernels."""


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A sum over rows and their number."""

    total: Tensor
    """Scalar, nats."""
    count: int


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Fused targets of B rows on the model's device; a row without a target has ids of -1 and zeros."""

    ids_BM: Tensor
    """int64, students' vocabulary; -1 where there is none."""
    prob_BM: Tensor
    """float32, 0 where there is no id."""
    tail_BT: Tensor
    """float32, each teacher's share of the mass outside the ids."""
    code_BTD: Tensor
    """float32, coordinates of each teacher's tail; D may be 0."""


@dataclass(frozen=True, slots=True)
class Tails:
    """Constants of a fused store that restore what is not listed (see `FusedTargets`), on the model's device."""

    bias_TV: Tensor
    """float32."""
    basis_TDV: Tensor | None
    """Of any float type; None for plain priors."""

    @staticmethod
    def of(store: Store[FusedTargets], *, device: torch.device) -> Tails:
        """The constants of `store` on `device`."""
        bias_TV = torch.from_numpy(store.constant("tail_bias_TV")).to(device)
        if "sketch_PTD" not in store.manifest.arrays:
            return Tails(bias_TV, None)
        # Stored in float16, and converted once: each chunk of rows is multiplied in float32.
        return Tails(bias_TV, torch.from_numpy(store.constant("tail_basis_TDV").astype(np.float32)).to(device))

    def chunks(self, targets: TargetBatch) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and their restored probabilities outside the lists, [C, V] float32."""
        elements = TAIL_CHUNK_ELEMENTS if self.bias_TV.device.type == "cpu" else TAIL_CHUNK_ELEMENTS_GPU
        size = max(1, elements // self.bias_TV.shape[1])
        for start in range(0, len(targets.ids_BM), size):
            rows = slice(start, min(start + size, len(targets.ids_BM)))
            yield (
                rows,
                tail_chunk(
                    targets.ids_BM[rows],
                    targets.tail_BT[rows],
                    targets.code_BTD[rows],
                    self.bias_TV,
                    self.basis_TDV,
                ),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One target of a weighted sum of cross-entropies; made by `label_term` and `target_term`."""

    targets: TargetBatch
    tails: Tails | None
    temperature: float
    tail: Tail | None
    """None: all mass is listed."""
    weight: float
    """Of the sum over rows."""


def label_term(labels_B: Tensor, *, weight: float) -> Term:
    """Cross-entropy of the true tokens (int64), as a target of one id with all the mass.

    So it shares softmax and gradient with the other terms, and is faster than torch's own cross-entropy.
    """
    certain_B1 = torch.ones_like(labels_B[:, None], dtype=torch.float32)
    targets = TargetBatch(labels_B[:, None], certain_B1, torch.zeros_like(certain_B1), certain_B1[:, :, None])
    return Term(targets=targets, tails=None, temperature=1.0, tail=None, weight=weight)


def target_term(targets: TargetBatch, tails: Tails | None, *, temperature: float, tail: Tail, weight: float) -> Term:
    """Soft cross-entropy with the targets, times T squared (Hinton et al. 2015, arXiv 1503.02531).

    With q = softmax(logits / T), its gradient is that of T^2 KL(target || q). Its value is that plus T^2 times the
    target's entropy. The target by `tail`:
    prior: the restored distribution of `FusedTargets` over the whole vocabulary (this project's), by `tails`;
    bucket: k + 1 outcomes, the last one for all ids that are not listed, in target and student alike.
    """
    return Term(targets=targets, tails=tails, temperature=temperature, tail=tail, weight=weight)


def weighted_loss(logits_BV: Tensor, terms: Sequence[Term]) -> tuple[Tensor, list[LossTerm]]:
    """The weighted sum of the terms, which has a gradient, and each term's own sum and count, which have none.

    Terms of one temperature share one softmax, and all share one gradient buffer, which saves time and memory.
    """
    total, *values = _SoftCrossEntropy.apply(_wide(logits_BV), tuple(terms))  # type: ignore[no-untyped-call]
    counts = [int((term.targets.ids_BM[:, 0] >= 0).sum()) for term in terms]
    return total, [LossTerm(value, count) for value, count in zip(values, counts, strict=True)]


def _wide(logits_BV: Tensor) -> Tensor:
    return logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()


class _SoftCrossEntropy(torch.autograd.Function):
    """Sum over terms of weight times T^2 times the cross-entropy of q = softmax(z / T) with a sparse target p.

    The gradient is in closed form. One term's value is mass * lse(z / T) - sum_v p(v) z(v) / T, and its gradient is
    T (mass q - p). The sum is over listed ids and, for a restored target, over the others, a few rows at a time. A
    bucket of mass b adds -b log(1 - Q) with Q = sum of q over listed ids, whose gradient is T b / (1 - Q) (q at listed
    ids - Q q). Returns the sum and, without gradients, each term's T^2 times cross-entropy.
    """

    @staticmethod
    def forward(ctx: Any, logits_BV: Tensor, terms: tuple[Term, ...]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        with torch.autocast(logits_BV.device.type, enabled=False):
            parts = _parts(logits_BV, terms)
            gradient_BV = _weighted_sum([(part.q_BV, part.scale_B) for part in parts])
            values = []
            for term, part in zip(terms, parts, strict=True):
                expected_B = part.expected_B
                factor = term.weight * term.temperature
                if term.tail == "prior":
                    assert term.tails is not None
                    for rows, outside_CV in term.tails.chunks(term.targets):
                        outside_CV = outside_CV.to(logits_BV.dtype)  # noqa: PLW2901
                        expected_B[rows] += torch.linalg.vecdot(outside_CV, logits_BV[rows])
                        gradient_BV[rows].sub_(outside_CV, alpha=factor)
                gradient_BV.scatter_add_(1, part.ids_BM, (-factor * part.net_BM).to(gradient_BV.dtype))
                loss_B = part.rest_B - expected_B / term.temperature
                values.append(term.temperature**2 * loss_B.sum())
        ctx.gradient_BV = gradient_BV if ctx.needs_input_grad[0] else None
        ctx.mark_non_differentiable(*values)
        total = logits_BV.new_zeros(())
        for term, value in zip(terms, values, strict=True):
            total = total + term.weight * value
        return total, *values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient_BV, ctx.gradient_BV = ctx.gradient_BV, None
        assert gradient_BV is not None, "weighted_loss allows one backward: its gradient is scaled in place"
        return gradient_BV.mul_(gradients[0]), None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """The values of a term that need the softmax, before the gradient overwrites it."""

    q_BV: Tensor
    """Softmax at the term's temperature; terms of one temperature hold the same tensor."""
    scale_B: Tensor
    """Factor of q in the gradient."""
    ids_BM: Tensor
    """Listed ids, 0 where there is none."""
    net_BM: Tensor
    """Subtracted from the gradient at these ids, after multiplication by weight and temperature."""
    expected_B: Tensor
    """Sum of p z over listed ids."""
    rest_B: Tensor
    """The loss without the term -expected / T."""


def _parts(logits_BV: Tensor, terms: tuple[Term, ...]) -> list[_Part]:
    largest_B = logits_BV.amax(dim=1)
    softmaxes: dict[float, tuple[Tensor, Tensor]] = {}
    parts = []
    for term in terms:
        temperature = term.temperature
        if temperature not in softmaxes:
            q_BV = torch.softmax(logits_BV if temperature == 1 else logits_BV / temperature, dim=1)
            softmaxes[temperature] = q_BV, largest_B / temperature - q_BV.amax(dim=1).log()
        q_BV, lse_B = softmaxes[temperature]
        ids_BM = term.targets.ids_BM.clamp_min(0)
        net_BM, bucket_B = term.targets.prob_BM, term.targets.tail_BT.sum(dim=1)
        mass_B = net_BM.sum(dim=1)
        if term.tail == "prior":
            mass_B = mass_B + bucket_B
        expected_B = (net_BM * logits_BV.gather(1, ids_BM)).sum(dim=1)
        scale_B, rest_B = mass_B, mass_B * lse_B
        if term.tail == "bucket" and ids_BM.shape[1] < logits_BV.shape[1]:
            q_BM = q_BV.gather(1, ids_BM).masked_fill(term.targets.ids_BM < 0, 0)
            listed_B = q_BM.sum(dim=1)
            room_B = (1 - listed_B).clamp_min(BUCKET_MINIMUM)
            pull_B = torch.where(1 - listed_B > BUCKET_MINIMUM, bucket_B / room_B, 0)
            net_BM = net_BM - pull_B[:, None] * q_BM
            scale_B, rest_B = scale_B - pull_B * listed_B, rest_B - bucket_B * room_B.log()
        parts.append(
            _Part(
                q_BV=q_BV,
                scale_B=term.weight * temperature * scale_B,
                ids_BM=ids_BM,
                net_BM=net_BM,
                expected_B=expected_B,
                rest_B=rest_B,
            )
        )
    return parts


def _weighted_sum(weighted: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of matrices [B, V] times weights [B], in the first matrix's memory; a matrix may come several times."""
    scales: dict[int, Tensor] = {}
    matrices: dict[int, Tensor] = {}
    for q_BV, scale_B in weighted:
        matrices[id(q_BV)] = q_BV
        scales[id(q_BV)] = scales[id(q_BV)] + scale_B if id(q_BV) in scales else scale_B
    first, *others = matrices
    total_BV = matrices[first].mul_(scales[first][:, None])
    for other in others:
        total_BV.addcmul_(matrices[other], scales[other][:, None].to(total_BV.dtype))
    return total_BV
