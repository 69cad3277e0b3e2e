"""Make a set for machine-paraphrase detection: paragraphs, and the same ones rewritten by a masked language model.

A share of a paragraph's words is masked, in rounds of at most 15 % of its words, and each masked word is replaced by a
draw from the model's prediction there: another whole word, never the original. Later rounds read what earlier ones
wrote. The model should be one that no evaluated student learned from. Which words are replaced is decided by seed and
paragraph alone: shares are nested (the words of 0.2 are among those of 0.4), and two models rewrite the same words.

Each paragraph appears once as it was (label 0, share 0) and once a share as rewritten (label 1). Train and test are
split by document, so that a detector is not tested on a paragraph that it was trained on in either form.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.core.seeds import generator, unit_hash
from pipeline.models.identity import weights_digest
from pipeline.models.masked_lm import MaskedLM, masked_lm
from pipeline.tasks.paragraphs import Draft, Paragraph, cut_paragraphs, replaceable, word_spans
from pipeline.tasks.params import RewriteParams
from pipeline.text.inputs import token_batches
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.text.vocabulary import START
from storage.documents import DocumentStore
from storage.errors import DataError, VocabularyError
from storage.format.manifest import Manifest, identity_of
from storage.tables import write_tables
from storage.work import WorkFolder

KIND = "rewritten"
REVISION = 1
TABLE = "paragraphs"
SCHEMA = pa.schema(
    [
        ("paragraph", pa.string()),
        ("document", pa.string()),
        ("source", pa.string()),
        ("share", pa.float64()),
        ("label", pa.uint8()),
        ("split", pa.string()),
        ("text", pa.string()),
    ]
)

ROUND_SHARE = 0.15
"""Largest share of a paragraph's words that is masked at once: the share of BERT's training."""

CHUNK_PARAGRAPHS = 256
"""Paragraphs between two lines of the journal: a killed run loses so many at most."""


def rewrite(params: RewriteParams, documents: Path, *, out: Path, runtime: Runtime) -> Manifest:
    """Write the set of one rewriter to `out`: a table `paragraphs` with SCHEMA's columns.

    The model computes in float32 whatever `runtime` says, so that the set does not depend on the machine but for
    rounding. A killed run continues after the last whole chunk. Raises DataError when train or test would be empty,
    VocabularyError when the tokenizer has no whole words, and what opening the store and the model raises.
    """
    folder = Path(params.model)
    tokenizer, store = load_tokenizer(folder), DocumentStore(documents)
    paragraphs, dropped = choose_paragraphs(store.read(params.split), params)
    weights = weights_digest(folder)
    inputs = params.model_dump(mode="json") | {"model": weights, "tokenizer": tokenizer.identity}
    parents = {"documents": store.identity}
    identity = identity_of(kind=KIND, revision=REVISION, inputs=inputs, parents=parents)
    with WorkFolder(out, name=f"rewrite-{out.name}", identity=identity, workspace=runtime.workspace) as work:
        texts = _rewritten(params, paragraphs, folder=folder, tokenizer=tokenizer, work=work, runtime=runtime)
        kept = [number for number in range(len(paragraphs)) if texts[params.shares[0]][number] is not None]
        dropped["longer than the model reads"] = len(paragraphs) - len(kept)
        table = _table(
            params,
            [paragraphs[number] for number in kept],
            {share: [str(column[number]) for number in kept] for share, column in texts.items()},
        )
        facts = {
            "model": {"folder": str(folder), "weights": weights},
            "shares": params.shares,
            "seed": params.seed,
            "paragraphs": len(kept),
            "test": sum(paragraphs[number].split < params.test_share for number in kept),
            "dropped": dict(sorted(dropped.items())),
        }
        manifest = write_tables(
            out,
            {TABLE: table},
            kind=KIND,
            revision=REVISION,
            schemas={TABLE: SCHEMA},
            inputs=inputs,
            facts=facts,
            parents=parents,
            workspace=replace(runtime.workspace, root=work.path),
        )
        work.finish()
    return manifest


def choose_paragraphs(documents: pa.Table, params: RewriteParams) -> tuple[list[Paragraph], Counter[str]]:
    """The paragraphs to rewrite, in the order of their names, and counts of those dropped, by reason.

    Raises DataError when train or test would be empty.
    """
    found: dict[str, Paragraph] = {}
    dropped: Counter[str] = Counter()
    for row in documents.to_pylist():
        texts, counts = cut_paragraphs(row["text"], least=params.words_min, most=params.words_max)
        dropped.update(counts)
        for number, text in enumerate(texts):
            if text in found:
                dropped["same text as another"] += 1
            elif len(replaceable(text)) < _target(text, max(params.shares)):
                dropped["too few words of letters"] += 1
            else:
                found[text] = Paragraph(
                    name=f"{row['doc_id']}/{number}",
                    document=row["doc_id"].partition("#")[0],
                    source=row["source"],
                    text=text,
                )
    ordered = sorted(found.values(), key=lambda paragraph: unit_hash("paraphrase-paragraph", paragraph.name))
    dropped["beyond the limit"] = max(0, len(ordered) - params.paragraphs)
    chosen = sorted(ordered[: params.paragraphs], key=lambda paragraph: paragraph.name)
    test = sum(paragraph.split < params.test_share for paragraph in chosen)
    if not 0 < test < len(chosen):
        raise DataError(
            f"{len(chosen)} paragraphs of {params.words_min} to {params.words_max} words, {test} of them for testing: "
            f"expected some to train on and some to test on (dropped: {dict(dropped)}). Give more text in split "
            f"{params.split}, or change words_min, words_max or test_share"
        )
    return chosen, dropped


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One draft with some of its words masked."""

    draft: Draft
    ids: list[int]
    """Tokens, with one mask token a masked word."""
    masked: list[tuple[int, int, float]]
    """Word, column and draw in [0, 1) of each masked word."""


class Rewriter:
    """A model with the words it may write."""

    def __init__(self, lm: MaskedLM, tokenizer: FastTokenizer, params: RewriteParams, *, batch_tokens: int) -> None:
        self._lm = lm
        self._tokenizer = tokenizer
        self._params = params
        self._batch_tokens = batch_tokens
        tokens = tokenizer.tokens[: lm.vocabulary]
        self._ids_W = np.array([number for number, token in enumerate(tokens) if _is_word(token)], np.int64)
        self._words: list[str] = [tokens[number].removeprefix(START) for number in self._ids_W]
        if len(self._words) < 2:
            raise VocabularyError(
                f"{tokenizer.folder}: no token of the vocabulary is a whole word; give a rewriter with a vocabulary of "
                "words (WordPiece, byte-level BPE, SentencePiece)"
            )
        self._columns: dict[str, list[int]] = {}
        for column, word in enumerate(self._words):
            self._columns.setdefault(word.casefold(), []).append(column)

    def rewrite(self, paragraphs: list[Paragraph], share: float) -> list[str | None]:
        """The paragraphs with `share` of their words replaced; None for one that is longer than the model reads."""
        drafts = [Draft(paragraph.text) for paragraph in paragraphs]
        plans = [_plan(paragraph, share, seed=self._params.seed) for paragraph in paragraphs]
        fits = [len(self._encode(draft.text).ids) <= self._lm.positions for draft in drafts]
        for step in range(max(len(plan) for plan in plans)):
            questions = [
                self._question(
                    draft,
                    plan[step],
                    # Draws are per word of a paragraph, so that the result does not depend on the batches.
                    generator(self._params.seed, "rewrite", paragraph.name, str(share), step).random(len(plan[step])),
                )
                for paragraph, draft, plan, fit in zip(paragraphs, drafts, plans, fits, strict=True)
                if fit and step < len(plan)
            ]
            length_G = np.array([len(question.ids) for question in questions], np.int64)
            for batch in token_batches(length_G, self._batch_tokens):
                self._answer([questions[number] for number in batch])
        return [draft.text if fit else None for draft, fit in zip(drafts, fits, strict=True)]

    def _answer(self, questions: list[Question]) -> None:
        """Replace the masked words of one batch."""
        answers = iter(self._logits(questions))
        for question in questions:
            for word, _, draw in question.masked:
                original = question.draft.original[word]
                question.draft.replace(word, self._draw(next(answers), original, draw))

    def _encode(self, text: str) -> Any:
        return self._tokenizer.backend.encode(text)

    def _question(self, draft: Draft, words: list[int], draw_Q: NDArray[np.float64]) -> Question:
        """The draft with one mask token in place of each word; a word that has no token stays."""
        encoding = self._encode(draft.text)
        spans = {word: draft.span(word) for word in words}
        ids: list[int] = []
        column: dict[int, int] = {}
        for token, (start, end), special in zip(
            encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True
        ):
            word = None if special else next((w for w, (a, b) in spans.items() if start < b and end > a), None)
            if word is None:
                ids.append(token)
            elif word not in column:
                column[word] = len(ids)
                ids.append(self._tokenizer.special["mask"])
        masked = [(w, column[w], float(draw)) for w, draw in zip(words, draw_Q, strict=True) if w in column]
        # A rewriting can have a few tokens more than its original (byte-level BPE): the model reads what it can.
        positions = self._lm.positions
        return Question(draft=draft, ids=ids[:positions], masked=[entry for entry in masked if entry[1] < positions])

    def _logits(self, questions: list[Question]) -> NDArray[np.float64]:
        """Logits [Q, W] of the words the model may write, at every masked word of a batch in order."""
        import torch

        width = max(len(question.ids) for question in questions)
        ids_BL = np.full((len(questions), width), self._tokenizer.special["pad"], np.int64)
        attention_BL = np.zeros_like(ids_BL)
        for row, question in enumerate(questions):
            ids_BL[row, : len(question.ids)] = question.ids
            attention_BL[row, : len(question.ids)] = 1
        row_Q = np.array([row for row, question in enumerate(questions) for _ in question.masked], np.int64)
        column_Q = np.array([column for question in questions for _, column, _ in question.masked], np.int64)
        with torch.inference_mode():
            logits_QV = self._lm.logits(*self._lm.tensors(ids_BL, attention_BL, row_Q, column_Q))
        found: NDArray[np.float64] = logits_QV.float().cpu().numpy()[:, self._ids_W].astype(np.float64)
        return found

    def _draw(self, logit_W: NDArray[np.float64], original: str, draw: float) -> str:
        """A word of the `top_k` most probable that are not the original, by its probability among them."""
        logit_W[self._columns.get(original.casefold(), [])] = -np.inf
        most = min(self._params.top_k, len(logit_W))
        best_K = np.sort(np.argpartition(-logit_W, most - 1)[:most])  # the order of ids, so that ties have one too
        best_K = best_K[np.argsort(-logit_W[best_K], kind="stable")]
        weight_K = np.exp((logit_W[best_K] - logit_W[best_K[0]]) / self._params.temperature)
        above_K = np.cumsum(weight_K)
        word = self._words[
            best_K[min(int(np.searchsorted(above_K, draw * above_K[-1], side="right")), len(best_K) - 1)]
        ]
        return f"{word[0].upper() if original[0].isupper() else word[0].lower()}{word[1:]}"


def _rewritten(
    params: RewriteParams,
    paragraphs: list[Paragraph],
    *,
    folder: Path,
    tokenizer: FastTokenizer,
    work: WorkFolder,
    runtime: Runtime,
) -> dict[float, list[str | None]]:
    """For each share the rewritten paragraphs, in their order; what the journal holds is not made again."""
    import torch

    done = {(entry["share"], entry["first"]): entry["texts"] for entry in work.entries()}
    plan = [(share, first) for share in params.shares for first in range(0, len(paragraphs), CHUNK_PARAGRAPHS)]
    missing = [chunk for chunk in plan if chunk not in done]
    if missing:
        with masked_lm(folder, device=runtime.device, dtype=torch.float32) as lm:
            rewriter = Rewriter(lm, tokenizer, params, batch_tokens=runtime.batch_tokens)
            with Progress(len(plan), unit="chunks", label=f"rewrite {work.out.name}", done=len(done)) as progress:
                for share, first in missing:
                    texts = rewriter.rewrite(paragraphs[first : first + CHUNK_PARAGRAPHS], share)
                    work.append({"share": share, "first": first, "texts": texts})
                    done[share, first] = texts
                    progress.advance(1)
    return {share: [text for chunk in plan if chunk[0] == share for text in done[chunk]] for share in params.shares}


def _table(params: RewriteParams, paragraphs: list[Paragraph], texts: dict[float, list[str]]) -> pa.Table:
    """Originals first, then each share's rewritings in the same order."""
    versions = [(0.0, 0, [paragraph.text for paragraph in paragraphs])]
    versions += [(share, 1, texts[share]) for share in params.shares]
    rows = [
        {
            "paragraph": paragraph.name,
            "document": paragraph.document,
            "source": paragraph.source,
            "share": share,
            "label": label,
            "split": "test" if paragraph.split < params.test_share else "train",
            "text": text,
        }
        for share, label, column in versions
        for paragraph, text in zip(paragraphs, column, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _target(text: str, share: float) -> int:
    """How many words are replaced."""
    return max(1, round(share * len(word_spans(text))))


def _plan(paragraph: Paragraph, share: float, *, seed: int) -> list[list[int]]:
    """Words to replace, by rounds."""
    words = np.array(replaceable(paragraph.text))
    chosen = generator(seed, "rewrite", paragraph.name).permutation(words)[: _target(paragraph.text, share)].tolist()
    size = max(1, int(ROUND_SHARE * len(word_spans(paragraph.text))))
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def _is_word(token: str) -> bool:
    """True for a token that is a whole word: it begins one, is letters only, and not a single letter but a or i."""
    word = token.removeprefix(START)
    return token.startswith(START) and word.isalpha() and (len(word) > 1 or word in "aAI")
