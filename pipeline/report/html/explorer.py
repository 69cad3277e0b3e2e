"""Data of the explorer of predictions: texts, their masked positions, and the top tokens of every model there.

Arrays lie in the page as base64 of little-endian numbers, tokens by their number in one list: three bytes of text for
two of data, where JSON would need about eight. Probabilities are in steps of 1 / `STEPS`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.heldout import Heldout, open_heldout
from pipeline.evaluate.top_tokens import SHOWN_TOKENS, SUFFIX, TopTokens, read_top_tokens, spelled
from pipeline.text.corpus_view import MaskedCorpus
from storage.errors import StaleParent
from storage.records.base import HELDOUT

LARGEST = 8_000_000
"""Bytes of the data at most; with more models, fewer positions are shown."""

STEPS = 10_000
"""A probability is a whole number of these parts."""

UNKNOWN = 65_535
"""In place of a probability where there is no prediction."""

COMMANDS = {"teachers": "evaluate_teacher", "fusions": "evaluate_fusion", "students": "evaluate"}
"""Stage that writes the top tokens of each kind."""


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """What the explorer shows."""

    data: dict[str, Any] | None = None
    """For the page's script; None where there is nothing to show."""
    missing: list[str] = field(default_factory=list)
    """What is not there, a sentence each with the command that makes it."""


def explore(
    shown: Mapping[str, Sequence[str]], corpus: MaskedCorpus | None, *, best: Mapping[str, str], reports: Path
) -> Explorer:
    """Read the top tokens of names by kind; `best` has the best teacher of each fusion.

    Raises StaleParent where they are of other masks than the corpus has.
    """
    found: dict[tuple[str, str], TopTokens] = {}
    missing = []
    for kind, names in shown.items():
        for name in names:
            remedy = f"dvc repro {COMMANDS[kind]}@{name}"
            path = reports / kind / f"{name}{SUFFIX}"
            top = read_top_tokens(path, remedy=remedy)
            if top is None:
                missing.append(f"{kind[:-1]} {name} has no top tokens. Run: {remedy}")
                continue
            if corpus is not None and top.masks != corpus.masks.identity:
                raise StaleParent(
                    f"{path}: predictions at masks {top.masks[:12]}, but {corpus.masks.path} is "
                    f"{corpus.masks.identity[:12]}. Run: {remedy}"
                )
            found[kind, name] = top
    if corpus is None:
        missing.append("The text is not here: the report was made without stores. Run: dvc repro report")
    if corpus is None or not found or not len(next(iter(found.values())).position_Q):
        return Explorer(missing=missing or ["Nothing was evaluated."])
    return Explorer(data=_data(found, open_heldout(corpus), corpus, best=best), missing=missing)


def _data(
    found: Mapping[tuple[str, str], TopTokens], heldout: Heldout, corpus: MaskedCorpus, *, best: Mapping[str, str]
) -> dict[str, Any]:
    position_Q = next(iter(found.values())).position_Q
    example_E1 = _examples(heldout, position_Q)
    window_E = heldout.masked.sequence_P[position_Q[example_E1[:-1]]]
    fits = _fitting(example_E1, models=len(found))
    example_E1, window_E = example_E1[: fits + 1], window_E[:fits]
    position_Q = position_Q[: example_E1[-1]]
    tokens = Tokens()
    texts = list(_texts(heldout, corpus, np.unique(window_E)))
    starts_ends = np.array([[text["start"], text["end"]] for text in texts])
    text_of = {window: number for number, window in enumerate(np.unique(window_E).tolist())}
    masked = heldout.masked
    text_Q = np.array([text_of[window] for window in masked.sequence_P[position_Q].tolist()])
    row_Q, column_Q = masked.sequence_P[position_Q], masked.column_P[position_Q]
    own = list(map(spelled, heldout.tokens))
    return {
        "steps": STEPS,
        "unknown": UNKNOWN,
        "shown": SHOWN_TOKENS,
        "texts": [{key: text[key] for key in ("document", "source", "text")} for text in texts],
        "examples": [
            {"text": text_of[int(window)], "copy": int(masked.copy_P[position_Q[first]]), "first": int(first)}
            for window, first in zip(window_E.tolist(), example_E1[:-1].tolist(), strict=True)
        ],
        "start": _packed(heldout.rows.char_start_NL[row_Q, column_Q] - starts_ends[text_Q, 0], np.uint32),
        "end": _packed(heldout.rows.char_end_NL[row_Q, column_Q] - starts_ends[text_Q, 0], np.uint32),
        "position": _packed(position_Q, np.uint32),
        "truth": _packed([tokens.number(own[label]) for label in masked.label_P[position_Q].tolist()], np.uint32),
        "models": [
            {
                "kind": kind[:-1],
                "name": name,
                **({"best": best[name]} if kind == "fusions" and name in best else {}),
                **_packed_tops(top, len(position_Q), tokens),
            }
            for (kind, name), top in found.items()
        ],
        "tokens": tokens.listed,
    }


class Tokens:
    """Numbers of tokens in the order of their first use; 0 is that of no token."""

    def __init__(self) -> None:
        self.listed = [""]
        self._numbers = {"": 0}

    def number(self, token: str) -> int:
        """The number of a token, a new one where it was not used before."""
        if token not in self._numbers:
            self._numbers[token] = len(self.listed)
            self.listed.append(token)
        return self._numbers[token]


def _examples(heldout: Heldout, position_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each example (a window and a mask copy) begins among the positions, and their number: [E + 1]."""
    masked = heldout.masked
    key_Q = (
        masked.copy_P[position_Q].astype(np.int64) * (1 + int(masked.sequence_P.max())) + masked.sequence_P[position_Q]
    )
    return np.concatenate([[0], 1 + np.flatnonzero(np.diff(key_Q)), [len(key_Q)]])


def _fitting(example_E1: NDArray[np.int64], *, models: int) -> int:
    """How many examples fit into `LARGEST`, the first at least; a text has about six bytes a position and copy."""
    size = models * (4 * (4 + 2) * SHOWN_TOKENS + 4 * 2) / 3 + 100
    return max(1, int(np.searchsorted(example_E1[1:], LARGEST / size, side="right")))


def _texts(heldout: Heldout, corpus: MaskedCorpus, window_W: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Document, source and text of windows, and where the text begins and ends in its document, in characters."""
    rows = heldout.rows
    document_W = rows.document_N[window_W]
    table = corpus.documents.read(HELDOUT).take(document_W)
    names = (table.column(name).to_pylist() for name in ("doc_id", "source", "text"))
    for window, document, source, text in zip(window_W.tolist(), *names, strict=True):
        inside_L = rows.word_NL[window] >= 0
        start, end = int(rows.char_start_NL[window][inside_L][0]), int(rows.char_end_NL[window][inside_L][-1])
        number = int(rows.window_N[window])
        yield {
            "document": document if number == 0 else f"{document} · part {number + 1}",
            "source": source,
            "text": text[start:end],
            "start": start,
            "end": end,
        }


def _packed_tops(top: TopTokens, positions: int, tokens: Tokens) -> dict[str, Any]:
    number_QK = np.zeros((positions, SHOWN_TOKENS), np.int64)
    p_QK = np.zeros((positions, SHOWN_TOKENS))
    for place, entries in enumerate(top.top_Q[:positions]):
        for rank, (token, p) in enumerate(entries):
            number_QK[place, rank], p_QK[place, rank] = tokens.number(token), p
    packed: dict[str, Any] = {
        "tokens": _packed(number_QK, np.uint32),
        "p": _probabilities(p_QK),
        "truth": _probabilities(top.truth_Q[:positions]),
    }
    if top.weights:
        packed["weights"] = {name: _probabilities(weight_Q[:positions]) for name, weight_Q in top.weights.items()}
    return packed


def _probabilities(values: NDArray[np.float64]) -> str:
    steps = np.round(np.nan_to_num(values) * STEPS)
    return _packed(np.where(np.isnan(values), UNKNOWN, steps), np.uint16)


def _packed(values: Any, dtype: type) -> str:
    """Base64 of little-endian numbers, in the order of their rows."""
    array = np.asarray(values).astype(np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(array.tobytes()).decode()
