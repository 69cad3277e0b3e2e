"""Which ids of a row are listed or drawn, on chunks of rows of logits or probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sparse.params import Keep, Nucleus

if TYPE_CHECKING:
    from torch import Tensor


CPU_CHUNK_ELEMENTS = 2**20
"""Logits processed at once: 4 MB in float32, so that the dozen operations on a chunk read the processor's cache."""

CUDA_CHUNK_ELEMENTS = 2**26
"""On a GPU chunks only bound memory: 256 MB in float32, with four such buffers."""

TOP_BLOCK = 12
"""Ids a block in the search for the k largest: 8 to 16 are fastest for lists of some dozens."""


def chunk_rows(logits_PV: Tensor) -> int:
    """Rows to work on at once."""
    elements = CPU_CHUNK_ELEMENTS if logits_PV.device.type == "cpu" else CUDA_CHUNK_ELEMENTS
    return max(1, elements // logits_PV.shape[1])


def largest(x_CV: Tensor, keep: int) -> Tensor:
    """Ids of the `keep` largest of each row, in order; exact.

    The k largest lie in the k blocks with the largest maxima, so k * 12 candidates are searched instead of V.
    Block i holds the ids i, i + n, i + 2n, ...: maxima are then taken over whole vectors.
    """
    import torch

    rows, vocabulary = x_CV.shape
    blocks = vocabulary // TOP_BLOCK
    if blocks <= 2 * keep:
        return x_CV.topk(keep, dim=1).indices
    inside = blocks * TOP_BLOCK
    best_CK = x_CV[:, :inside].view(rows, TOP_BLOCK, blocks).amax(dim=1).topk(keep, dim=1, sorted=False).indices
    members = torch.arange(0, inside, blocks, device=x_CV.device)
    rest = torch.arange(inside, vocabulary, device=x_CV.device)
    candidates = torch.cat([(best_CK[:, None, :] + members[:, None]).flatten(1), rest.expand(rows, -1)], dim=1)
    return candidates.gather(1, x_CV.gather(1, candidates).topk(keep, dim=1).indices)


def choose(p_CQ: Tensor, keep: Keep) -> Tensor:
    """True where an entry is listed, given the probabilities of a row's most likely ids, in order; bool [C, Q].

    Listed entries are a prefix of their row, because the probabilities fall.
    """
    import torch

    if not isinstance(keep, Nucleus):
        return torch.full(p_CQ.shape, keep.most > 0, dtype=torch.bool, device=p_CQ.device)
    listed_CQ = p_CQ >= keep.floor
    if keep.mass < 1:  # at 1 only rounding could end a list
        listed_CQ &= p_CQ.double().cumsum(dim=1) - p_CQ < keep.mass
    listed_CQ[:, : keep.least] = True
    return listed_CQ


def erase(x_CV: Tensor, ids_CQ: Tensor, listed_CQ: Tensor) -> None:
    """Set x to 0 at listed ids, in place."""
    x_CV.scatter_(1, ids_CQ, x_CV.gather(1, ids_CQ).masked_fill_(listed_CQ, 0.0))


def draw(p_CV: Tensor, ids_CQ: Tensor, p_CQ: Tensor, *, uniform_CS: Tensor, listed: bool) -> tuple[Tensor, Tensor]:
    """Draw S ids a row from the unlisted ones, by the inverse of the distribution function.

    p_CV, up to a factor a row, is 0 at the candidates ids_CQ, which hold p_CQ; `listed` says whether they are listed,
    all or none. It is overwritten and restored. Returns int64 ids [C, S], the most drawn first, ties by id, -1
    where equal ids leave places, and float32 shares of the draws, 0 there.

    A row without mass outside (its probabilities underflow) draws uniformly from the unlisted ids.
    """
    import torch

    if not listed:
        p_CV.scatter_(1, ids_CQ, p_CQ)
    # float64: a float32 sum of 30 thousand terms moves the borders of small probabilities by more than themselves.
    upto_CV = p_CV.cumsum(dim=1, dtype=torch.float64)
    empty_C = upto_CV[:, -1] == 0
    if bool(empty_C.any()):
        even_CV = torch.ones_like(p_CV[empty_C], dtype=torch.float64)
        upto_CV[empty_C] = even_CV.scatter_(1, ids_CQ[empty_C], 0.0 if listed else 1.0).cumsum(dim=1)
    total_C1 = upto_CV[:, -1:].contiguous()
    # Kept below the total, to which the product may round up: so the id found has a probability above 0.
    aim_CS = torch.minimum(uniform_CS * total_C1, torch.nextafter(total_C1, torch.zeros_like(total_C1)))
    drawn_CS = torch.searchsorted(upto_CV, aim_CS, right=True)
    if not listed:
        p_CV.scatter_(1, ids_CQ, 0.0)
    return _merged(drawn_CS)


def _merged(drawn_CS: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    draws = drawn_CS.shape[1]
    sorted_CS = drawn_CS.sort(dim=1).values
    new_CS = torch.ones_like(sorted_CS, dtype=torch.bool)
    new_CS[:, 1:] = sorted_CS[:, 1:] != sorted_CS[:, :-1]
    run_CS = new_CS.cumsum(dim=1) - 1
    count_CS = torch.zeros_like(sorted_CS).scatter_add_(1, run_CS, torch.ones_like(sorted_CS))
    ids_CS = torch.full_like(sorted_CS, -1).scatter_(1, run_CS, sorted_CS)
    order_CS = count_CS.argsort(dim=1, descending=True, stable=True)  # ids ascend within equal counts
    return ids_CS.gather(1, order_CS), count_CS.gather(1, order_CS) / draws
