"""Whether fused targets are better with a teacher of another vocabulary, at words that it cuts differently.

A teacher with a byte-level BPE vocabulary is made here: the students' start gets this vocabulary and learns from pages
that the corpus does not use. It answers the default run's corpus and joins the teachers there, each alone and all of
them. At words that it cuts differently the target without it is that of the others alone: so it was when such words
stayed without an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.families.likelihood import cut_alike, teacher_params
from benchmarks.families.pages import masked_corpus
from pipeline.adapt.params import AdapterParams
from pipeline.adapt.text import read_pages
from pipeline.core.config import section
from pipeline.core.runtime import Runtime
from pipeline.evaluate.bootstrap import Means, mean_intervals
from pipeline.evaluate.heldout import Heldout, open_heldout
from pipeline.evaluate.predictions import heldout_nll, restored_fusion_nll
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.fuse.weighting import Weighting
from pipeline.models.masked_lm import masked_lm
from pipeline.sparse.restore import RestoredTargets
from pipeline.teach.teach import teach
from pipeline.text.corpus_view import MaskedCorpus, MaskedSequences
from pipeline.text.params import CorpusParams
from pipeline.train.params import LABELS_ONLY, LossParams, StudentParams, TrainingParams
from pipeline.train.train import train
from storage.reader import Store
from storage.records.base import HELDOUT
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets

TRAINING = TrainingParams(
    steps=300, step_tokens=256, learning_rate=1.2e-4, warmup=0.06, weight_decay=0.01, gradient_clip=1.0, evaluations=2,
    seed=0,
)  # fmt: skip
SPLIT = CorpusParams(share=1.0, calibration=0.01, heldout=0.01)
PAGES = 900
"""Pages that it learns from, about 100 thousand tokens."""

WEIGHTINGS: tuple[Weighting, ...] = ("learned", "uniform")
RESAMPLES = 1000
OTHER = "byte-bpe"
SETTINGS = Path("params.yaml")


def gain(
    *, data: Path, glosses: Path, start: Path, tokenizer: Path, runtime: Runtime, scratch: Path
) -> list[dict[str, Any]]:
    """One row for each pool of teachers and weighting; NLL of restored targets and of students, nats a position.

    A student learns as `fused` of the settings file does, from targets of one teacher or of all, by learned weights.

    data has the default run's stores, glosses its ingested text, `start` is the students' start, and `tokenizer` the
    folder of the other vocabulary. `difference` is with the other teacher minus without it, with its 95 % interval from
    a bootstrap over documents. `new` is of words that the other teacher cuts differently, `alike` of the rest.
    """
    corpus = MaskedCorpus.open(data / "documents", data / "sequences", data / "masks")
    pages = [page.text for page in _pages_outside(glosses, start, corpus=data / "documents")][:PAGES]
    logits = scratch / "logits"
    logits.mkdir(parents=True)
    others = sorted(path.name for path in (data / "logits").glob("[!.]*/"))
    for name in others:
        (logits / name).symlink_to((data / "logits" / name).absolute())
    model = _trained(pages, start, tokenizer, scratch / OTHER, runtime)
    teach(teacher_params(model), corpus, out=logits / OTHER, runtime=runtime, tokenizer=start)
    heldout = open_heldout(corpus)
    answered_P = Store(logits / OTHER, SparseLogits).read(HELDOUT).covered_P()
    alike_P = cut_alike(corpus, model, start)
    rows: list[dict[str, Any]] = []

    def judge(of: str, pool: list[str], weighting: Weighting, losses: Callable[[Path], NDArray[np.float64]]) -> None:
        without_P, with_P = (
            losses(_fused(teachers, weighting, data=data, logits=logits, heldout=heldout, scratch=scratch))
            for teachers in (pool, [*pool, OTHER])
        )
        for where, here_P in (("new", ~alike_P), ("alike", alike_P)):
            found = compare(without_P, with_P, here_P & answered_P & np.isfinite(without_P), heldout)
            rows.append({"of": of, "pool": pool, "weighting": weighting, "where": where} | found)
            print(rows[-1], flush=True)

    pools = [*([name] for name in others), others] if len(others) > 1 else [others]
    for pool in pools:
        for weighting in WEIGHTINGS:
            judge("target", pool, weighting, lambda targets: _restored_nll(targets, heldout))
    for pool in (pools[0], *pools[1:][-1:]):
        judge("student", pool, "learned", lambda targets: _student_nll(targets, start, heldout, scratch, runtime))
    return rows


def _pages_outside(glosses: Path, start: Path, *, corpus: Path) -> Sequence[Any]:
    """Pages that the corpus does not use, in an order drawn from their ids."""
    params = AdapterParams(start=str(start), text=str(glosses), training=TRAINING)
    return read_pages(params, corpus=corpus)[0]


def _trained(pages: Sequence[str], start: Path, tokenizer: Path, scratch: Path, runtime: Runtime) -> Path:
    """A masked language model over the vocabulary of `tokenizer`, trained on the pages' true tokens."""
    corpus = masked_corpus(pages, tokenizer, SPLIT, scratch)
    out = scratch / "models" / scratch.name
    train(
        StudentParams(targets=LABELS_ONLY, start=str(start), loss=LossParams(labels=1.0)),
        TRAINING,
        MaskedSequences(sequences=corpus.sequences, masks=corpus.masks),
        tokenizer=tokenizer,
        out=out,
        runtime=runtime,
    )
    return out


def _fused(
    teachers: list[str], weighting: Weighting, *, data: Path, logits: Path, heldout: Heldout, scratch: Path
) -> Path:
    """The fused store of these teachers."""
    out = scratch / "targets" / "-".join([weighting, *teachers])
    params = FusionParams.model_validate(
        {
            "teachers": teachers, "weighting": weighting, "tau": 2.0, "calibrated": True, "prior": "equal",
            "temperature": 1.0, "keep": 64, "debias": {"counts": 10},
        }
    )  # fmt: skip
    if not out.exists():
        fuse(
            params,
            MaskedSequences(sequences=heldout.sequences, masks=heldout.masks),
            logits=logits,
            documents=data / "documents",
            out=out,
            declared=sorted(path.name for path in logits.iterdir()),
        )
    return out


def _restored_nll(targets: Path, heldout: Heldout) -> NDArray[np.float64]:
    """NLL [P] of the true tokens under the restored targets of a fusion; NaN without a target."""
    store = Store(targets, FusedTargets)
    restored = RestoredTargets.of(store, store.read(HELDOUT), device=torch.device("cpu"))
    nll_P = restored_fusion_nll(restored, heldout.masked.label_P)
    assert nll_P is not None, "no teacher draws here"
    return nll_P


def _student_nll(targets: Path, start: Path, heldout: Heldout, scratch: Path, runtime: Runtime) -> NDArray[np.float64]:
    """NLL [P] of the true tokens under a student of these targets, with the settings of the default run."""
    out = scratch / "students" / targets.name
    student = section(SETTINGS, "students.fused", StudentParams)
    train(
        student.model_copy(update={"targets": str(targets), "start": str(start)}),
        section(SETTINGS, "training", TrainingParams),
        MaskedSequences(sequences=heldout.sequences, masks=heldout.masks),
        tokenizer=start,
        out=out,
        runtime=runtime,
    )
    with masked_lm(out, device=runtime.device, dtype=torch.float32) as lm:
        return heldout_nll(
            lm,
            heldout.rows,
            heldout.masked,
            special=heldout.sequences.facts["special"],
            batch_tokens=runtime.batch_tokens,
        )


def compare(
    without_P: NDArray[np.float64], with_P: NDArray[np.float64], chosen_P: NDArray[np.bool_], heldout: Heldout
) -> dict[str, Any]:
    """Means over the chosen positions, and the paired difference with its interval."""
    quantities = {"without": without_P, "with": with_P, "difference": with_P - without_P}
    means = Means.of(
        {name: (value_P, chosen_P) for name, value_P in quantities.items()},
        document_P=heldout.document_P,
        documents=len(heldout.row_D),
    )
    found = mean_intervals(means, resamples=RESAMPLES, seed=0)
    names = ("without", "with", "difference", "difference_low", "difference_high")
    return {"positions": int(chosen_P.sum())} | {name: round(found[name], 4) for name in names}
