"""What a target would teach a student, before any training: bias and variance of its gradient at the student's start.

The gradient of a masked position's cross-entropy with a target p, with respect to the output matrix, is (q - p) h',
where q is the start's softmax and h the input of its last layer; with a target of temperature T it is T (q - p) h' with
q at T, as the loss has it (`pipeline.sparse.loss`). True tokens give an unbiased gradient of large variance, a teacher
one of small variance with a bias. Averaged over n positions the squared error is bias^2 + variance / n, so true tokens
are the better target from n* = (variance of true tokens - variance of the target) / bias^2 positions on.

Squares of mean gradients are estimated by inner products of two halves of the documents, which noise does not inflate.
All are shares of the squared norm of the gradient of the true tokens. Measured at the start alone: as a student learns,
gradient and bias shrink together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.core.seeds import generator
from pipeline.fuse.fuse import tail_constants
from pipeline.fuse.job import FuseJob, open_teacher
from pipeline.fuse.params import FusionParams
from pipeline.models.masked_lm import MaskedLM, one_model
from pipeline.sparse.loss import Tails
from pipeline.sparse.restore import RestoredTargets
from pipeline.teach.hidden_states import inputs_of, output_layer
from pipeline.text.corpus_view import MaskedSequences
from pipeline.text.inputs import TokenRows, model_inputs, reference_view, token_batches
from pipeline.text.tokenizer import load_tokenizer
from pipeline.train.initialize import start_student
from pipeline.train.params import TargetGradientParams
from storage.errors import DataError
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.sequences import Masks
from storage.records.targets import FusedTargets
from storage.writer import Shard

CHUNK_ROWS = 256
"""Positions whose dense distributions are made at once."""

MOST_SHARDS = 64
"""Shards that are read, evenly spread."""

Dense = Callable[[NDArray[np.int64]], Tensor]
"""Probabilities [C, V], float32, of chosen positions."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a student would learn from."""

    dense: Dense
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """A student before its first step, at P masked positions."""

    hidden_PH: Tensor
    """float32, the input of its last layer."""
    weight_VH: Tensor
    bias_V: Tensor


def gradient_statistics(
    start: Start, label_P: NDArray[np.int64], half_P: NDArray[np.int64], targets: Mapping[str, Target]
) -> dict[str, Any]:
    """Statistics of each target's gradient, of that of the true tokens, and cosines between biases.

    label_P: true tokens; half_P: 0 or 1, the half of the documents that a position is in. With g the mean gradient of
    the true tokens, t that of a target and b = t - g, all [V, H], `targets.<name>` has

    squared_bias: |b|^2 / |g|^2; cosine: of t and g; variance: of one position, E |x - t|^2 / |g|^2;
    positions: n*, after which true tokens are better; None where no bias can be measured.

    `labels.variance` is that of true tokens, `cosines` has a row for each two targets: that of their biases.
    """
    size = (2, *start.weight_VH.shape)
    label_gradient, label_square = torch.zeros(size), 0.0
    bias = {name: torch.zeros(size) for name in targets}
    square = dict.fromkeys(targets, 0.0)
    with Progress(len(label_P), unit="positions", label="target gradients") as progress:
        for half in (0, 1):
            rows = np.flatnonzero(half_P == half)
            for first in range(0, len(rows), CHUNK_ROWS):
                row_C = rows[first : first + CHUNK_ROWS]
                hidden_CH = start.hidden_PH[torch.from_numpy(row_C)]
                norm_C = hidden_CH.square().sum(dim=1)
                label_C1 = torch.from_numpy(label_P[row_C])[:, None]
                logits_CV = torch.addmm(start.bias_V, hidden_CH, start.weight_VH.T)
                q_CV = torch.softmax(logits_CV, dim=1)
                residual_CV = q_CV.scatter_add(1, label_C1, -torch.ones((len(row_C), 1)))
                label_gradient[half].addmm_(residual_CV.T, hidden_CH, alpha=1 / len(rows))
                label_square += float(residual_CV.square().sum(dim=1) @ norm_C)
                for name, target in targets.items():
                    hot = target.temperature
                    own_CV = q_CV if hot == 1 else torch.softmax(logits_CV / hot, dim=1)
                    gradient_CV = (own_CV - target.dense(row_C)).mul_(hot)
                    square[name] += float(gradient_CV.square().sum(dim=1) @ norm_C)
                    bias[name][half].addmm_(gradient_CV.sub_(residual_CV).T, hidden_CH, alpha=1 / len(rows))
                progress.advance(len(row_C))
    scale = _inner(label_gradient, label_gradient)
    if scale <= 0:
        raise DataError(
            f"the gradient of the true tokens cannot be told from noise with {len(label_P)} positions. Raise "
            "target_gradients.positions"
        )
    label_variance = label_square / len(label_P) / scale - 1
    found: dict[str, Any] = {}
    for name in targets:
        gradient = label_gradient + bias[name]
        squared = _inner(gradient, gradient)
        squared_bias = _inner(bias[name], bias[name]) / scale
        variance = (square[name] / len(label_P) - squared) / scale
        found[name] = {
            "squared_bias": squared_bias,
            "cosine": _inner(gradient, label_gradient) / np.sqrt(max(squared, 1e-12 * scale) * scale),
            "variance": variance,
            "positions": max(0.0, label_variance - variance) / squared_bias if squared_bias > 0 else None,
        }
    names = list(targets)
    cosines = [
        {"first": first, "second": second, "cosine": _cosine(bias[first], bias[second])}
        for number, first in enumerate(names)
        for second in names[number + 1 :]
    ]
    return {
        "measured": len(label_P),
        "labels": {"variance": label_variance},
        "targets": found,
        "cosines": [row for row in cosines if row["cosine"] is not None],
    }


def _inner(first: Tensor, second: Tensor) -> float:
    """Inner product of two means [2, V, H] over the two halves, each with the other's half: without noise, unbiased."""
    crossed = torch.sum(first[0] * second[1], dtype=torch.float64) + torch.sum(
        first[1] * second[0], dtype=torch.float64
    )
    return float(crossed) / 2


def _cosine(first: Tensor, second: Tensor) -> float | None:
    squares = _inner(first, first), _inner(second, second)
    return None if min(squares) <= 0 else _inner(first, second) / float(np.sqrt(squares[0] * squares[1]))


def measure_targets(
    params: TargetGradientParams,
    corpus: MaskedSequences,
    *,
    logits: Path,
    targets: Path,
    tokenizer: Path,
    teachers: Sequence[str],
    fusions: Sequence[str],
    runtime: Runtime,
) -> dict[str, Any]:
    """The statistics of every teacher alone, at its fitted temperature, and of every fusion, at train positions.

    `teachers` and `fusions` of the result are the two kinds of `targets`; `cosines` are of teachers alone. Positions
    that some target lacks do not count. What was fitted to train labels (`debias`) is measured where it was fitted, so
    its bias comes out too small. Raises StaleParent when stores do not belong together, DataError for too few
    positions.
    """
    shards = spread_shards(corpus.masks.plan("train"))
    found = corpus.examples("train", [(shard.start, shard.stop) for shard in shards])
    document_N = corpus.sequences.columns_at("train", found.sequence_N, ("document_N",))["document_N"].astype(np.int64)
    document_P = document_N[found.masks.sequence_P]
    row_P = choose_positions(document_P, found.prediction_P, shards, positions=params.positions)
    sources: dict[str, RestoredTargets] = {}
    temperatures: dict[str, float] = {}
    for name in teachers:
        sources[f"teachers/{name}"] = _teacher_alone(name, corpus, logits=logits, shards=shards, row_P=row_P)
    for name in fusions:
        store = Store(targets / name, FusedTargets)
        store.require_parent("masks", corpus.masks)
        record = _chosen(lambda shard, store=store: store.shard("train", shard.index), shards, row_P)  # type: ignore[misc]
        sources[f"fusions/{name}"] = RestoredTargets.of(store, record, device=torch.device("cpu"))
        temperatures[f"fusions/{name}"] = float(store.facts["temperature"])
    place_P = np.flatnonzero(np.logical_and.reduce([found.record.covered_P() for found in sources.values()]))
    row_P = row_P[place_P]
    read_P = np.searchsorted(found.prediction_P, row_P)
    half_P = np.unique(document_P[read_P], return_inverse=True)[1] % 2
    if min(np.bincount(half_P, minlength=2)) < 2:
        raise DataError(
            f"{corpus.masks.path}: {len(row_P)} train positions have all targets. Raise target_gradients.positions"
        )
    model = start_student(Path(params.start), tokenizer=load_tokenizer(tokenizer), layers=None, config=None, seed=0)
    with one_model():
        lm = MaskedLM(model.to(runtime.device), runtime.device)
        rows = corpus.token_rows("train", found.sequence_N)
        start = _start(lm, rows, found.masks, read_P, corpus.special, batch_tokens=runtime.batch_tokens)

    def target_of(name: str, restored: RestoredTargets) -> Target:
        return Target(dense=lambda chosen: restored.chunk(place_P[chosen]), temperature=temperatures.get(name, 1.0))

    result = gradient_statistics(
        start,
        found.masks.label_P[read_P].astype(np.int64),
        half_P,
        {name: target_of(name, source) for name, source in sources.items()},
    )
    by_kind = {
        kind: {
            name.removeprefix(f"{kind}/"): found for name, found in result["targets"].items() if name.startswith(kind)
        }
        for kind in ("teachers", "fusions")
    }
    cosines = [
        {key: value.removeprefix("teachers/") if isinstance(value, str) else value for key, value in row.items()}
        for row in result["cosines"]
        if row["first"].startswith("teachers/") and row["second"].startswith("teachers/")
    ]
    return {"measured": result["measured"], "labels": result["labels"], **by_kind, "cosines": cosines}


def spread_shards(plan: SplitPlan) -> list[Shard]:
    """Evenly spread train shards.

    All shards where they are few: neighbouring documents are alike, so some of them would be another text.
    """
    indices = np.unique(np.linspace(0, plan.shards - 1, min(plan.shards, MOST_SHARDS)).round().astype(int)).tolist()
    bounds = {index: plan.bounds(index) for index in indices}
    return [Shard(split="train", index=index, start=start, stop=stop) for index, (start, stop) in bounds.items()]


def choose_positions(
    document_P: NDArray[np.int64], prediction_P: NDArray[np.int64], shards: Sequence[Shard], *, positions: int
) -> NDArray[np.int64]:
    """Rows of documents drawn from shards, at most `positions`; both arrays are of what was read with them."""
    inside_P = np.logical_or.reduce([(prediction_P >= shard.start) & (prediction_P < shard.stop) for shard in shards])
    row_P, (names, inverse_P) = prediction_P[inside_P], np.unique(document_P[inside_P], return_inverse=True)
    order_D = generator(0, "target gradients", len(names)).permutation(len(names))
    taken = np.cumsum(np.bincount(inverse_P)[order_D]) <= positions
    taken[:2] = True  # a document each half
    return np.asarray(row_P[np.isin(inverse_P, order_D[taken])])


def _teacher_alone(
    name: str, corpus: MaskedSequences, *, logits: Path, shards: Sequence[Shard], row_P: NDArray[np.int64]
) -> RestoredTargets:
    """A teacher's rows as a fusion of it alone would have them, in memory."""
    store = open_teacher(logits / name, corpus.masks)
    # Not checked: a list and its draws may hold more than a store of targets can.
    params = FusionParams.model_construct(
        teachers=[name],
        weighting="uniform",
        tau=1.0,
        calibrated=True,
        prior="equal",
        temperature=1.0,
        keep=int(store.facts["most"]) + int(store.facts["keep"].get("draws", 0)),
    )
    job = FuseJob(
        params=params,
        name=name,
        sequences=corpus.sequences.path,
        masks=corpus.masks.path,
        logits=logits,
        identities=(corpus.masks.identity, store.identity),
    )
    with job.opened() as mixer:
        record = _chosen(lambda shard: job.make(mixer, shard, advance=lambda _: None)[0], shards, row_P)
        constants = tail_constants(mixer.teachers)
    basis_TDV = constants.get("tail_basis_TDV")
    tails = Tails(
        torch.from_numpy(constants["tail_bias_TV"]),
        None if basis_TDV is None else torch.from_numpy(basis_TDV.astype(np.float32)),
    )
    return RestoredTargets(record=record, tails=tails)


def _chosen(made: Callable[[Shard], FusedTargets], shards: Sequence[Shard], row_P: NDArray[np.int64]) -> FusedTargets:
    """Rows row_P, rising, of the shards they lie in; one shard in memory."""
    parts = []
    for shard in shards:
        mine = row_P[(row_P >= shard.start) & (row_P < shard.stop)] - shard.start
        parts.append({name: values[mine] for name, values in made(shard).arrays().items()})
    return FusedTargets(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _start(
    lm: MaskedLM,
    rows: TokenRows,
    masks: Masks,
    row_P: NDArray[np.int64],
    special: dict[str, int],
    *,
    batch_tokens: int,
) -> Start:
    """Run the start over the chosen positions; raises TeacherRefused where logits are not one matrix times a state."""
    layer, bias_V = output_layer(lm)
    view = reference_view(rows, masks, special=special)
    chosen_G = np.unique(np.searchsorted(view.start_G1, row_P, side="right") - 1)
    place_P = np.full(len(masks), -1, np.int64)
    place_P[row_P] = np.arange(len(row_P))
    hidden_PH = torch.zeros((len(row_P), layer.weight.shape[1]))
    lm.model.eval()
    with torch.no_grad(), inputs_of(layer) as given:
        for batch in token_batches(view.lengths_G()[chosen_G], batch_tokens):
            inputs = model_inputs(view, chosen_G[batch])
            arrays = inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q, inputs.column_Q
            lm.logits(*lm.tensors(*arrays))
            place_Q = torch.from_numpy(place_P[inputs.prediction_Q])
            hidden_PH[place_Q[place_Q >= 0]] = given.pop().cpu()[place_Q >= 0]
        weight_VH = layer.weight.detach().float().cpu()
        return Start(
            hidden_PH=hidden_PH,
            weight_VH=weight_VH,
            bias_V=torch.zeros(len(weight_VH)) if bias_V is None else bias_V.detach().float().cpu(),
        )
