"""What a lexical student reads: words in context with their candidates, and texts of what these mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.instances import Instances
from pipeline.lexicon import Lexicon
from pipeline.overlap import shows_heldout
from pipeline.sense_params import ReadingParams
from storage.errors import DataError

if TYPE_CHECKING:
    from pipeline.lexical_student import LexicalParams
    from pipeline.lexical_training import Lesson

log = logging.getLogger(__name__)


def open_lexical_lesson(
    params: LexicalParams,
    opened: dict[str, Instances],
    lexicon: Lexicon,
    tokenizer: Any,
    *,
    heldout: Sequence[str],
) -> tuple[Lesson, int]:
    """What the student learns from: the train split of its senses, with beliefs where a teacher has any.

    And how many words are left out because they would show it a text of `heldout`. Raises DataError when nothing is
    left to learn.
    """
    from pipeline.beliefs import read_beliefs
    from pipeline.lexical_training import Lesson

    instances = Instances.joined(list(opened.values()))
    composer = open_composer(params.reading, params.objective, instances, lexicon, tokenizer, split="train")
    view = composer.view
    belief = None
    if params.belief:
        belief = read_beliefs(Path(params.beliefs), opened, row_I=view.row_I, candidates=view.candidates)
    several_I = view.candidates.lengths() > 1
    if belief is None:
        known_I = np.add.reduceat(view.gold, view.candidates.start_R1[:-1]) > 0 if len(view) else several_I
    else:
        known_I = several_I
    useful_I = several_I & known_I
    shown_I = useful_I & shows_heldout(instances, lexicon, heldout)[view.row_I]
    left_out = int(shown_I.sum())
    if left_out:
        log.info("%d of %d words left out: they would show it held-out text", left_out, int(useful_I.sum()))
    instance_I = np.flatnonzero(useful_I & ~shown_I)
    if not len(instance_I):
        raise DataError(
            f"senses {', '.join(opened)}: no word with several senses to learn from"
            + (f" but {left_out} that would show the student held-out text. Give other text" if left_out else "")
        )
    lesson = Lesson(
        composer=composer, instance_I=instance_I, belief=belief, gold_weight=params.gold, belief_weight=params.belief
    )
    return lesson, left_out


def open_composer(
    reading: ReadingParams, objective: str, instances: Instances, lexicon: Lexicon, tokenizer: Any, *, split: str | None
) -> Any:
    """Windows and gloss texts of instances, ready to be made into batches."""
    from pipeline.lexical import Composer
    from pipeline.lexical_view import lexical_view, meaning_tokens

    view = lexical_view(instances, lexicon, tokenizer, split=split, context_tokens=reading.context_tokens)
    texts = {
        shown: meaning_tokens(
            lexicon, tokenizer, wanted=np.unique(view.candidates.flat), most=reading.gloss_tokens, examples=shown
        )
        for shown in {False, reading.examples}
    }
    return Composer(
        view,
        reading="bi" if objective.startswith("bi") else "cross",
        full=texts[reading.examples],
        bare=texts[False],
        tokenizer=tokenizer,
    )
