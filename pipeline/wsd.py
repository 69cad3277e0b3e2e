"""Word sense disambiguation: let a lexical student read words in context, and score what it answers.

A student's folder carries all that scoring needs (`senses/`: head, way of reading, inventory), so any set in the layout
of Raganato et al. 2017 can be judged with it alone. Reading is in float32 for a verdict, whatever the hardware offers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Section
from pipeline.instances import Instances, marked_sentence
from pipeline.lexicon import Lexicon
from pipeline.raganato import check, read_gold, read_sentences
from pipeline.suites import suite_report
from pipeline.wsd_scoring import InstanceInfo, WsdScores, describe, score
from storage.errors import DataError, SourceError, StaleParent

if TYPE_CHECKING:
    import torch

    from pipeline.lexical_view import LexicalView

Keys = Mapping[str, tuple[str, ...]]


class WsdParams(Section):
    """The `wsd` section."""

    bootstrap: int = Field(ge=1)
    """Resamples for the 95 % intervals."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class SenseReader:
    """A lexical student in memory, with its head and inventory."""

    folder: Path
    model: Any
    tokenizer: Any
    lexicon: Lexicon
    reading: Any
    objective: str
    device: torch.device
    dtype: torch.dtype
    batch_tokens: int

    def require_lexicon(self, lexicon: Lexicon) -> None:
        """Raise StaleParent when the student learned another inventory."""
        if self.lexicon.identity != lexicon.identity:
            raise StaleParent(
                f"{self.folder}: learned inventory {self.lexicon.identity[:12]}, but the one at hand is "
                f"{lexicon.identity[:12]}. Train it again: dvc repro lexical@{self.folder.name}"
            )

    def read(self, instances: Instances, *, split: str | None = None) -> tuple[LexicalView, NDArray[np.float32]]:
        """Log-probability of every candidate of every word, along the candidates of the view that comes with it."""
        from pipeline.lexical_lesson import open_composer
        from pipeline.lexical_training import score_all

        composer = open_composer(self.reading, self.objective, instances, self.lexicon, self.tokenizer, split=split)
        if not len(composer.view):
            return composer.view, np.zeros(0, np.float32)
        logp_C = score_all(
            self.model,
            composer,
            pad=self.tokenizer.special["pad"],
            device=self.device,
            autocast=self.dtype,
            batch_tokens=self.batch_tokens,
        )
        return composer.view, logp_C

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
def sense_reader(
    folder: Path, *, device: torch.device, batch_tokens: int, dtype: torch.dtype | None = None
) -> Iterator[SenseReader]:
    """Load the lexical student in `folder`, to read in float32 unless `dtype` says otherwise.

    Raises SourceError when it carries no senses, SecondModelError when a model is in memory.
    """
    import torch
    from safetensors.torch import load_file

    from pipeline.lexical import SenseHead, SenseModel
    from pipeline.models import load_checked, one_model
    from pipeline.sense_params import HEAD_FILE, LEXICON_FOLDER, READING_FILE, SENSES_FOLDER, ReadingParams
    from pipeline.tokens import load_tokenizer

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
            model=SenseModel(lm, head).to(device).eval(),
            tokenizer=load_tokenizer(folder),
            lexicon=lexicon,
            reading=ReadingParams.model_validate(settings),
            objective=objective,
            device=device,
            dtype=dtype or torch.float32,
            batch_tokens=batch_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Scores of one set, the answers behind them, and what was odd in its files."""

    scores: WsdScores
    answers: dict[str, tuple[str, ...]]
    counts: dict[str, int]


def judge_files(reader: SenseReader, params: WsdParams, *, data: Path, gold: Path) -> Judgement:
    """Judge a student on a set in the layout of Raganato et al. 2017.

    Raises DataError for files that are not in the layout or do not belong together.
    """
    sentences = list(read_sentences(data))
    keys = read_gold(gold)
    found = check(sentences, keys, files=(data, gold), known=reader.lexicon.row_of.__contains__)
    lexicon_keys = reader.lexicon.keys
    info = describe(
        sentences,
        path=data,
        candidates=lambda lemma, pos: [lexicon_keys[row] for row in reader.lexicon.candidates(lemma, pos)],
    )
    # Gold keys are not shown to the reader: a word whose gold is no candidate is answered like any other.
    instances, counts = Instances.of((marked_sentence(sentence, {}) for sentence in sentences), reader.lexicon)
    answers = reader.answer(instances)
    scores = score(keys, answers, info=info, resamples=params.bootstrap, seed=params.seed)
    return Judgement(
        scores=scores,
        answers=answers,
        counts={**_plain(found), **{name: count for name, count in counts.items() if count}},
    )


def judge_heldout(reader: SenseReader, params: WsdParams, opened: Mapping[str, Instances]) -> Judgement:
    """Judge a student on the held-out words of stores of instances; each store is a set."""
    keys: dict[str, tuple[str, ...]] = {}
    info: dict[str, InstanceInfo] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for name, instances in opened.items():
        sentences = instances.sentences.to_pylist()
        for row in instances.rows.to_pylist():
            sentence = sentences[row["sentence"]]
            if sentence["split"] != "heldout" or not row["gold"]:
                continue
            instance = f"{name}/{row['instance_id']}"
            keys[instance] = tuple(reader.lexicon.keys[sense] for sense in row["gold"])
            info[instance] = InstanceInfo(
                set_name=name, document=sentence["document_id"], sentence=sentence["sentence_id"], pos=row["pos"],
                candidates=tuple(reader.lexicon.keys[sense] for sense in row["candidates"]),
            )  # fmt: skip
        found = reader.answer(instances, split="heldout")
        answers |= {f"{name}/{instance}": answer for instance, answer in found.items() if f"{name}/{instance}" in keys}
    if not keys:
        raise DataError(f"senses {', '.join(opened)}: no word is held out. Raise senses.NAME.heldout")
    scores = score(keys, answers, info=info, resamples=params.bootstrap, seed=params.seed)
    return Judgement(scores=scores, answers=answers, counts={"words": len(keys)})


def wsd_report(folder: Path, judgement: Judgement, **details: Any) -> dict[str, Any]:
    """The suite's report, F1 in per cent of 1."""
    metrics = judgement.scores.metrics()
    return suite_report("wsd", folder, metrics, headline="all", counts=judgement.counts, **details)


def _plain(counts: Any) -> dict[str, int]:
    """The integer fields of a record of counts."""
    names = getattr(counts, "__slots__", ())
    return {name: value for name in names if isinstance(value := getattr(counts, name), int) and value}
