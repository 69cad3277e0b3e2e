"""A teacher's predictions at words that its tokenizer cuts differently from the students'.

Such a word has n tokens in the students' vocabulary and m in the teacher's. The teacher reads m masks and predicts a
distribution p_i for each. A word w of the teacher's tokens t_1 ... t_m gets the probability P(w), in proportion to
p_1(t_1) ... p_m(t_m), among the candidates: words whose cuts have m and n tokens and differ, as is known of the place.
Students predict each token from a context in which the whole word is masked, so the distribution for their token j is
the marginal q_j(s), the sum of P(w) over the words whose j-th token is s.

Candidates for n = 1 are all words of the students' vocabulary, for m = 1 all of the teacher's; else the `BEAM` words
whose tokens are most likely together. What they leave out is not impossible: a row is a q_j + b p_i + c u, with p_i
of the teacher's nearest token and u uniform over the tokens that students know. The shares a, b, c are the most likely
ones for the calibration split, for three kinds of words.

Rows are over the teacher's ids and, after them, one id for each word or part of a word that only students have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.vocabulary import START, Bridge, bridge, marks_spaces

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.text.tokenizer import FastTokenizer


BEAM = 256
"""Candidates of a word that has several tokens in both vocabularies. With 1,000 its mean NLL is 0.1 nat lower and the
time four times as long (measured)."""

TOKENS_A_MASK = 128
"""Most likely tokens at each of a word's masks from which candidates are made."""

UNSEEN = 1e-6
"""Mass, at words that both vocabularies cut alike, of all ids that only students have together: nothing the teacher
said, but above 0, so that every id has a logarithm."""

SMALLEST = 1e-30
"""Least probability of an id: the teacher's ids that students do not have may have none."""

START_SHARES = (0.6, 0.3, 0.1)
"""Shares before the fit, which counts them as `PSEUDO_TOKENS` tokens."""

PSEUDO_TOKENS = 10.0
EM_ROUNDS = 100

KINDS = ("one token of the students", "one token of the teacher", "several of both")
"""Kinds of words, each with its own shares."""

MOST_CUTS = 100_000
"""Candidates whose cut by the students' tokenizer is remembered."""


def kind_of(students: int, teachers: int) -> int:
    """Index in `KINDS` of a word with so many tokens in the two vocabularies."""
    return 0 if students == 1 else 1 if teachers == 1 else 2


def nearest_token(j: int, students: int, teachers: int) -> int:
    """The teacher's token of a word that lies where the students' token j does, both counted from 0."""
    return min(teachers - 1, int((j + 0.5) * teachers / students))


def fit_shares(components: Iterable[tuple[int, NDArray[np.floating]]]) -> NDArray[np.float64]:
    """Shares [3 kinds, 3] of q_j, p_i and u that make the true tokens most likely.

    components holds a word's kind and, for each of its tokens, what the three give the true one. Expectation
    maximisation for the weights of a mixture (Dempster, Laird and Rubin 1977).
    """
    found: dict[int, list[NDArray[np.floating]]] = defaultdict(list)
    for kind, p_NX in components:
        found[kind].append(p_NX)
    shares_CX = np.tile(np.array(START_SHARES), (len(KINDS), 1))
    for kind, parts in found.items():
        p_NX = np.concatenate(parts).astype(np.float64)
        for _ in range(EM_ROUNDS):
            part_NX = p_NX * shares_CX[kind]
            part_NX /= part_NX.sum(axis=1, keepdims=True)
            shares_CX[kind] = part_NX.sum(axis=0) + PSEUDO_TOKENS * np.array(START_SHARES)
            shares_CX[kind] /= shares_CX[kind].sum()
    return shares_CX


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A masked word that the two vocabularies cut differently, and the teacher's predictions for it."""

    log_p_MV: Tensor
    """float32, log-probabilities at each of the teacher's masks."""
    row_N: NDArray[np.int64]
    """Rows of the students' tokens."""
    label_N: NDArray[np.int64]
    """These tokens, students' ids."""
    spaced: bool
    """Whether a space stands before it."""

    @property
    def kind(self) -> int:
        """Index in `KINDS`."""
        return kind_of(len(self.row_N), len(self.log_p_MV))


@dataclass(frozen=True, kw_only=True)
class WordOutcomes:
    """The two vocabularies side by side; made by `word_outcomes`. W words, O outcomes."""

    tokens: list[str]
    """The teacher's tokens, and after them those that only students have."""
    own: int
    """The number of the teacher's."""
    outcome_V: NDArray[np.int64]
    """Outcome of each student id; -1 where it has none, as special tokens and punctuation that the teacher lacks."""
    to_student_V: NDArray[np.int64]
    """The vocabulary bridge."""
    backend: Any
    """The students' tokenizer, `tokenizers.Tokenizer`."""
    spells: NDArray[np.bool_]
    """True at the teacher's tokens that consist of letters and digits."""
    begins: NDArray[np.bool_]
    """True at the teacher's tokens that begin a word."""
    of_students: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
    """Words of one student token by the teacher's number m of tokens: outcomes [W, 1] and teacher ids [W, m]."""
    of_teacher: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
    """Words of one teacher token by the students' number n of tokens: outcomes [W, n] and teacher ids [W, 1]."""
    marked: tuple[bool, bool]
    """Whether the teacher's and the students' tokens write the space before a word."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Students' cuts of candidates, to be asked for once."""

    def extend(self, logits_QV: Tensor) -> Tensor:
        """Logits of the teacher's ids [Q, Vt] with those of all outcomes [Q, O], float32."""
        import torch

        more = len(self.tokens) - self.own
        logits_QV = logits_QV.float()
        unseen_Q1 = logits_QV.logsumexp(dim=1, keepdim=True) + np.log(UNSEEN / max(1, more))
        return torch.cat([logits_QV, unseen_Q1.expand(-1, more)], dim=1)

    def rows(self, word: Word, shares_CX: NDArray[np.float64]) -> Tensor:
        """Log-probabilities [n, O] of a word's tokens, float32 and finite."""
        q_NO, p_NO, u_O = self.components(word)
        a, b, c = shares_CX[word.kind].tolist()
        row_NO: Tensor = (a * q_NO + b * p_NO + c * u_O).clamp_min(SMALLEST).log()
        return row_NO

    def components(self, word: Word) -> tuple[Tensor, Tensor, Tensor]:
        """Q [n, O], p [n, O] and u [O] of a word; q is p where there is no candidate. Each row adds up to 1."""
        import torch

        students, teachers = len(word.row_N), len(word.log_p_MV)
        nearest = [nearest_token(j, students, teachers) for j in range(students)]
        p_NO = torch.nn.functional.pad(word.log_p_MV[nearest].exp(), (0, len(self.tokens) - self.own))
        u_O = torch.zeros(len(self.tokens), device=p_NO.device)
        known = torch.from_numpy(self.outcome_V[self.outcome_V >= 0]).to(p_NO.device)
        u_O[known] = 1 / len(known)
        found = self.candidates(word)
        if found is None:
            return p_NO, p_NO, u_O
        outcome_WN, p_W = found
        q_NO = torch.zeros_like(p_NO)
        q_NO.scatter_add_(1, outcome_WN.T, p_W.expand(students, -1))
        return q_NO, p_NO, u_O

    def candidates(self, word: Word) -> tuple[Tensor, Tensor] | None:
        """Candidates' outcomes [W, n], int64, and probabilities [W]; None when there is none."""
        import torch

        log_p_MV, students = word.log_p_MV, len(word.row_N)
        teachers, device = len(log_p_MV), log_p_MV.device
        usual = word.spaced or not self.marked[1]
        table = self.of_students.get(teachers) if students == 1 else self.of_teacher.get(students)
        if min(students, teachers) == 1 and usual:
            if table is None:
                return None
            outcome_WN, id_WM = (torch.from_numpy(part).to(device) for part in table)
            score_W = log_p_MV.gather(1, id_WM.T).sum(dim=0)
            return outcome_WN, score_W.softmax(dim=0)
        id_WM, score_W = self._most_likely(log_p_MV, first=usual or not self.marked[0])
        found = [self._students_cut(ids, students, usual) for ids in id_WM.tolist()]
        kept = [i for i, cut in enumerate(found) if cut is not None]
        if not kept:
            return None
        outcome_WN = torch.tensor([found[i] for i in kept], device=device)
        return outcome_WN, score_W[kept].softmax(dim=0)

    def _most_likely(self, log_p_MV: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
        """Teacher ids [W, m] of the most likely words and their log-probabilities; `first`: they begin as words do."""
        import torch

        id_WM = torch.zeros((1, 0), dtype=torch.int64, device=log_p_MV.device)
        score_W = log_p_MV.new_zeros(1)
        for m, log_p_V in enumerate(log_p_MV):
            allowed_V = self.spells & (self.begins == (first and m == 0))
            allowed = torch.from_numpy(np.flatnonzero(allowed_V)).to(log_p_V.device)
            best, place = log_p_V[allowed].topk(min(TOKENS_A_MASK, len(allowed)))
            score_WB = score_W[:, None] + best
            score_W, at = score_WB.flatten().topk(min(BEAM, score_WB.numel()))
            id_WM = torch.cat([id_WM[at // len(best)], allowed[place[at % len(best)]][:, None]], dim=1)
        return id_WM, score_W

    def _students_cut(self, ids: list[int], students: int, spaced: bool) -> list[int] | None:
        """Outcomes of the word of these teacher ids, when students cut it into so many tokens and differently."""
        spelt = (" " if spaced else "") + "".join(self.tokens[number].removeprefix(START) for number in ids)
        cut = self.cuts.get(spelt)
        if cut is None:
            if len(self.cuts) >= MOST_CUTS:
                self.cuts.clear()
            cut = self.cuts[spelt] = self.backend.encode(spelt, add_special_tokens=False).ids
        if len(cut) != students or (len(ids) == students and self.to_student_V[ids].tolist() == cut):
            return None
        outcomes: list[int] = self.outcome_V[cut].tolist()
        return None if min(outcomes) < 0 else outcomes


def word_outcomes(teacher: FastTokenizer, student: FastTokenizer) -> WordOutcomes | None:
    """Outcomes for words that the tokenizers cut differently; None when both have the same words and parts of words."""
    found: Bridge = bridge(teacher.tokens, student.tokens)
    spells = np.array([_is_spelling(token) for token in teacher.tokens])
    outcome_V = np.full(len(student.tokens), -1)
    known = np.flatnonzero(found.to_student_V >= 0)
    outcome_V[found.to_student_V[known[::-1]]] = known[::-1]  # of several, the first counts
    only_students = [i for i, token in enumerate(student.tokens) if outcome_V[i] < 0 and _is_spelling(token)]
    if not only_students and bool((found.to_student_V[spells] >= 0).all()):
        return None
    outcome_V[only_students] = len(teacher.tokens) + np.arange(len(only_students))
    begins = np.array([token.startswith(START) for token in teacher.tokens])
    of_students: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
    ids = [i for i in only_students if student.tokens[i].startswith(START)]
    for cut, own in _cuts(student.tokens, ids, teacher.backend, student.backend):
        if cut is not None and teacher.special["unk"] not in cut:
            of_students[len(cut)].append(([int(outcome_V[own])], cut))
    of_teacher: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
    for cut, own in _cuts(teacher.tokens, np.flatnonzero(spells & begins).tolist(), student.backend, teacher.backend):
        if cut is not None and len(cut) > 1 and bool((outcome_V[cut] >= 0).all()):
            of_teacher[len(cut)].append((outcome_V[cut].tolist(), [own]))
    return WordOutcomes(
        tokens=[*teacher.tokens, *(student.tokens[i] for i in only_students)],
        own=len(teacher.tokens),
        outcome_V=outcome_V,
        to_student_V=found.to_student_V,
        backend=student.backend,
        spells=spells,
        begins=begins,
        of_students=_tables(of_students),
        of_teacher=_tables(of_teacher),
        marked=(marks_spaces(teacher.tokens), marks_spaces(student.tokens)),
    )


def _is_spelling(token: str) -> bool:
    return token.removeprefix(START).isalnum()


def _cuts(tokens: list[str], ids: list[int], other: Any, own: Any) -> list[tuple[list[int] | None, int]]:
    """The other tokenizer's cut of each of these tokens as a word, None where its own tokenizer would not give it."""
    words = [" " + tokens[number].removeprefix(START) for number in ids]
    others = other.encode_batch(words, add_special_tokens=False)
    same = own.encode_batch(words, add_special_tokens=False)
    return [
        (cut.ids if check.ids == [number] else None, number)
        for cut, check, number in zip(others, same, ids, strict=True)
    ]


def _tables(
    words: dict[int, list[tuple[list[int], list[int]]]],
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return {
        count: (np.array([left for left, _ in pairs]), np.array([right for _, right in pairs]))
        for count, pairs in words.items()
    }
