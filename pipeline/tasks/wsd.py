"""Word sense disambiguation: a lexical student predicts the senses of words in context, which are then scored.

A student's folder holds all that prediction needs (`senses/`: head, settings of the context, inventory). So it can be
scored on any set in the layout of Raganato et al. 2017. Predictions are computed in float32, whatever the settings say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluate.suites import suite_report
from pipeline.lexical.reading.reader import SenseReader
from pipeline.senses.instances import Instances, marked_sentence
from pipeline.senses.leakage import shown_in_training
from pipeline.senses.raganato import check, read_gold, read_sentences
from pipeline.tasks.params import WsdParams
from pipeline.tasks.wsd_scorer import InstanceInfo, WsdScores, describe, score
from storage.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """Scores of one set, the predicted senses, and counts of irregularities in its files."""

    scores: WsdScores
    answers: dict[str, tuple[str, ...]]
    counts: dict[str, int]


def score_files(reader: SenseReader, params: WsdParams, *, data: Path, gold: Path) -> ScoredSet:
    """Score a student on a set in the layout of Raganato et al. 2017.

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
    # The reader gets no gold keys: a word whose gold is no candidate is predicted like any other.
    instances, counts = Instances.of((marked_sentence(sentence, {}) for sentence in sentences), reader.lexicon)
    answers = reader.answer(instances)
    scores = score(keys, answers, info=info, resamples=params.bootstrap, seed=params.seed)
    return ScoredSet(
        scores=scores,
        answers=answers,
        counts={**_plain(found), **{name: count for name, count in counts.items() if count}},
    )


def score_heldout(
    reader: SenseReader,
    params: WsdParams,
    opened: Mapping[str, Instances],
    *,
    training_texts: Callable[[], Iterable[str]] | None = None,
) -> ScoredSet:
    """Score a student on the held-out words of stores of instances; each store is a set.

    Words that `training_texts()`, of which a language model was made, have shown it are not scored, and are counted as
    `in_training_text`. Raises DataError when no word is left.
    """
    keys: dict[str, tuple[str, ...]] = {}
    info: dict[str, InstanceInfo] = {}
    answers: dict[str, tuple[str, ...]] = {}
    left_out = 0
    for name, instances in opened.items():
        if "heldout" not in instances.sentences["split"].unique().to_pylist():
            continue  # text of documents, which would be looked for in themselves
        sentences = instances.sentences.to_pylist()
        shown_R = shown_in_training(instances, reader.lexicon, [] if training_texts is None else training_texts())
        for row, shown in zip(instances.rows.to_pylist(), shown_R.tolist(), strict=True):
            sentence = sentences[row["sentence"]]
            if sentence["split"] != "heldout" or not row["gold"]:
                continue
            if shown:
                left_out += 1
                continue
            instance = f"{name}/{row['instance_id']}"
            keys[instance] = tuple(reader.lexicon.keys[sense] for sense in row["gold"])
            info[instance] = InstanceInfo(
                set_name=name,
                document=sentence["document_id"],
                sentence=sentence["sentence_id"],
                pos=row["pos"],
                candidates=tuple(reader.lexicon.keys[sense] for sense in row["candidates"]),
            )
        found = reader.answer(instances, split="heldout")
        answers |= {f"{name}/{instance}": answer for instance, answer in found.items() if f"{name}/{instance}" in keys}
    if not keys:
        raise DataError(
            f"senses {', '.join(opened)}: no word is held out"
            + (
                f" but {left_out} that the language model's training text shows. Lower corpus.share or give other text"
                if left_out
                else ". Raise senses.NAME.heldout"
            )
        )
    scores = score(keys, answers, info=info, resamples=params.bootstrap, seed=params.seed)
    return ScoredSet(
        scores=scores,
        answers=answers,
        counts={"words": len(keys)} | ({} if training_texts is None else {"in_training_text": left_out}),
    )


def wsd_report(folder: Path, scored: ScoredSet, **details: Any) -> dict[str, Any]:
    """The suite's report, F1 in [0, 1]."""
    metrics = scored.scores.metrics()
    return suite_report("wsd", folder, metrics, headline="all", counts=scored.counts, **details)


def _plain(counts: Any) -> dict[str, int]:
    """The integer fields of a record of counts."""
    names = getattr(counts, "__slots__", ())
    return {name: value for name in names if isinstance(value := getattr(counts, name), int) and value}
