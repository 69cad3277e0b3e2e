"""Whether an encoder's vectors of a word in two sentences tell one meaning from two, before any fine-tuning.

    python -m benchmarks.lexical.word_in_context --senses data/senses/semcor --lexicon data/lexicon \
        --model without=models/fused --model with=models/lexical,models/lexical-1 --out FILE

The task is WiC's (Pilehvar and Camacho-Collados 2019, arXiv 1808.09121, with a threshold on the cosine as in their
section 4), its pairs made from words with annotated senses: nouns and verbs, as there, with as many pairs of one
meaning as of two for every lemma. So chance is 0.5, and a lemma's usual meaning helps nobody. No sense head takes part,
so any masked language model can be compared. Models of one name are seeds of one student, paired in the order given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.params import RuntimeParams
from pipeline.core.runtime import Runtime, apply
from pipeline.core.seeds import generator
from pipeline.evaluate.bootstrap import Means, mean_intervals, seeds_difference
from pipeline.evaluate.results import write_json
from pipeline.lexical.classifier import SenseHead, SenseModel, encode_parts, span_means
from pipeline.lexical.context import lexical_view
from pipeline.models.masked_lm import load_checked, one_model
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Int
from pipeline.text.tokenizer import load_tokenizer

PARTS_OF_SPEECH = ("NOUN", "VERB")
CONTEXT_TOKENS = 64
PAIRS_LOOKED_AT = 2000
"""Pairs of a lemma that are drawn before its pairs are chosen: a usual verb has millions."""
RESAMPLES, SEED = 1000, 0
QUANTITIES = ("accuracy", "ranked")
"""Right answers with a threshold, and the order of pairs within a lemma without one."""
RUNTIME = RuntimeParams(device="auto", dtype="float32", threads=0, batch_tokens=4096, checkpoint_seconds=60.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """P pairs of words in context."""

    first_P: Int
    """Row of the first word in the store."""
    second_P: Int
    same_P: NDArray[np.bool_]
    """True where both have a meaning in common."""
    lemma_P: Int
    """Number of the lemma, from 0."""


def choose_pairs(instances: Instances, *, most: int, seed: int) -> Pairs:
    """As many pairs of one meaning as of two for every noun and verb, at most `most` of each, from different texts."""
    rows, texts = instances.rows, instances.sentences["text"].to_pylist()
    sentence_I = rows["sentence"].to_numpy().astype(np.int64)
    gold = [frozenset(senses) for senses in rows["gold"].to_pylist()]
    words = defaultdict(list)
    for row, (lemma, pos) in enumerate(zip(rows["lemma"].to_pylist(), rows["pos"].to_pylist(), strict=True)):
        if pos in PARTS_OF_SPEECH and gold[row]:
            words[lemma, pos].append(row)
    chosen: list[tuple[int, int, bool, int]] = []
    lemmas = 0
    for (lemma, pos), found in sorted(words.items()):
        rng = generator(seed, "pairs", lemma, pos)
        pairs: Mapping[bool, list[tuple[int, int]]] = {True: [], False: []}
        for one, other in _some_pairs(found, rng):
            if texts[sentence_I[one]] != texts[sentence_I[other]]:
                pairs[bool(gold[one] & gold[other])].append((one, other))
        count = min(most, *map(len, pairs.values()))
        for same, listed in pairs.items():
            drawn = rng.permutation(len(listed))[:count]
            chosen += [(*listed[place], same, lemmas) for place in drawn.tolist()]
        lemmas += count > 0
    table = np.array(chosen, np.int64).reshape(-1, 4)
    return Pairs(first_P=table[:, 0], second_P=table[:, 1], same_P=table[:, 2].astype(bool), lemma_P=table[:, 3])


def _some_pairs(rows: Sequence[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    if len(rows) * (len(rows) - 1) // 2 <= PAIRS_LOOKED_AT:
        return list(combinations(rows, 2))
    drawn = rng.integers(0, len(rows), (PAIRS_LOOKED_AT, 2))
    return sorted({(rows[min(pair)], rows[max(pair)]) for pair in drawn.tolist() if pair[0] != pair[1]})


def word_vectors(folder: Path, instances: Instances, lexicon: Lexicon, runtime: Runtime) -> NDArray[np.float32]:
    """Mean of the last layer's states over each word's tokens [I, H], of length 1."""
    tokenizer = load_tokenizer(folder)
    view = lexical_view(instances, lexicon, tokenizer, split=None, context_tokens=CONTEXT_TOKENS)
    by_window = np.argsort(view.window_I, kind="stable")
    bounds = np.searchsorted(view.window_I[by_window], np.arange(len(view.windows) + 1))
    with one_model(), torch.inference_mode():
        lm = load_checked(folder).to(runtime.device).eval()
        width = int(lm.config.hidden_size)
        model = SenseModel(lm, SenseHead(width, "bi").to(runtime.device))
        vector_IH = np.zeros((len(instances.rows), width), np.float32)
        for part in encode_parts(view.windows, batch_tokens=runtime.batch_tokens):
            hidden, _ = model.encode(view.windows.take(part), pad=tokenizer.special["pad"])
            inside = [by_window[bounds[window] : bounds[window + 1]] for window in part.tolist()]
            row_I = np.repeat(np.arange(len(part)), [len(words) for words in inside])
            word_I = np.concatenate(inside)
            places = (torch.from_numpy(values) for values in (row_I, view.first_I[word_I], view.last_I[word_I]))
            found = span_means(hidden, *places).float()
            vector_IH[view.row_I[word_I]] = torch.nn.functional.normalize(found, dim=-1).cpu().numpy()
    return vector_IH


def best_threshold(score_P: NDArray[np.float32], same_P: NDArray[np.bool_]) -> float:
    """The value above which a score says "one meaning" with the fewest errors; between two scores, or beyond all."""
    order = np.argsort(score_P, kind="stable")
    ordered = score_P[order].astype(np.float64)
    errors = np.concatenate([[0], np.cumsum(np.where(same_P[order], 1, -1))])
    cuts = np.concatenate([[-np.inf], [(low + high) / 2 for low, high in pairwise(ordered.tolist())], [np.inf]])
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    return float(cuts[np.flatnonzero(possible)[np.argmin(errors[possible])]])


def right_answers(score_P: NDArray[np.float32], pairs: Pairs) -> NDArray[np.bool_]:
    """Which pairs a threshold on the score answers rightly; that of a lemma is fitted to the other half of lemmas."""
    fold_P = pairs.lemma_P % 2 == 0
    said_P = np.zeros(len(score_P), bool)
    for judged_P in (fold_P, ~fold_P):
        said_P[judged_P] = score_P[judged_P] > best_threshold(score_P[~judged_P], pairs.same_P[~judged_P])
    return np.asarray(said_P == pairs.same_P)


def ranked(
    score_P: NDArray[np.float32], pairs: Pairs, *, lemmas: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each lemma [L], couples of a pair of one meaning and one of two with the higher score first, and all couples.

    A tie counts as a half. Their quotient is the area under the curve within a lemma, which needs no threshold.
    """
    right_L, count_L = np.zeros(lemmas), np.zeros(lemmas)
    for lemma in range(lemmas):
        own = pairs.lemma_P == lemma
        same, other = score_P[own & pairs.same_P], score_P[own & ~pairs.same_P]
        higher = same[:, None] - other[None, :]
        right_L[lemma] = (higher > 0).sum() + 0.5 * (higher == 0).sum()
        count_L[lemma] = higher.size
    return right_L, count_L


def compare(
    models: Mapping[str, Sequence[Path]], senses: Sequence[Path], lexicon: Path, *, most: int, runtime: Runtime
) -> dict[str, Any]:
    """Accuracy of every model with its 95 % interval over lemmas, and paired differences over lemmas and seeds."""
    inventory = Lexicon.open(lexicon)
    instances = Instances.joined([Instances.open(folder, lexicon=inventory) for folder in senses])
    pairs = choose_pairs(instances, most=most, seed=SEED)
    row_I, place = np.unique(np.concatenate([pairs.first_P, pairs.second_P]), return_inverse=True)
    read = replace(instances, rows=instances.rows.take(row_I))
    lemmas = int(pairs.lemma_P.max()) + 1
    means: dict[str, list[Means]] = {}
    for name, folders in models.items():
        for folder in folders:
            vector_IH = word_vectors(folder, read, inventory, runtime)
            score_P = (vector_IH[place[: len(pairs.same_P)]] * vector_IH[place[len(pairs.same_P) :]]).sum(axis=1)
            right_L = np.bincount(pairs.lemma_P, right_answers(score_P, pairs), minlength=lemmas)
            ranked_L, couples_L = ranked(score_P, pairs, lemmas=lemmas)
            pairs_L = np.bincount(pairs.lemma_P, minlength=lemmas).astype(np.float64)
            found = Means(
                names=QUANTITIES,
                total_DQ=np.stack([right_L, ranked_L], axis=1),
                count_DQ=np.stack([pairs_L, couples_L], axis=1),
            )
            means.setdefault(name, []).append(found)
            click.echo(f"{name} {folder}: {found.values()}")
    return {
        "pairs": len(pairs.same_P),
        "lemmas": lemmas,
        "models": {
            name: [mean_intervals(found, resamples=RESAMPLES, seed=SEED) for found in seeds]
            for name, seeds in means.items()
        },
        "differences": [
            {"first": one, "second": other, **_difference(means[one], means[other])}
            for one, other in combinations(means, 2)
            if len(means[one]) == len(means[other]) or 1 in (len(means[one]), len(means[other]))
        ],
    }


def _difference(first: Sequence[Means], second: Sequence[Means]) -> dict[str, float]:
    """Of the mean over seeds; a model without seeds is compared with each seed of the other."""
    seeds = max(len(first), len(second))
    sides = [list(side) * (seeds // len(side)) for side in (first, second)]
    found: dict[str, float] = {"seeds": seeds}
    for name in QUANTITIES:
        value, low, high = seeds_difference(sides[0], sides[1], name, resamples=RESAMPLES, seed=SEED)
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


@click.command()
@click.option("--senses", type=click.Path(path_type=Path), multiple=True, required=True, help="Words in context.")
@click.option("--lexicon", type=click.Path(path_type=Path), required=True)
@click.option("--model", "named", multiple=True, required=True, help="NAME=FOLDER or NAME=FOLDER,FOLDER: seeds.")
@click.option("--most", default=8, help="Pairs of one meaning, and of two, of a lemma.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(senses: Sequence[Path], lexicon: Path, named: Sequence[str], most: int, out: Path) -> None:
    """Compare models on pairs of words in context."""
    models = {}
    for entry in named:
        name, _, folders = entry.partition("=")
        models[name] = [Path(folder) for folder in folders.split(",")]
    write_json(out, compare(models, senses, lexicon, most=most, runtime=apply(RUNTIME)))


if __name__ == "__main__":
    main()
