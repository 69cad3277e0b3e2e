"""A small sense inventory and texts with its words, for tests of lexical training; needs no network."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.senses.lexicon import Lexicon, build_lexicon
from pipeline.senses.marked import Marked, Span
from pipeline.senses.params import LexiconParams
from tests.helpers import stores as fakes

if TYPE_CHECKING:
    from pipeline.lexical.classifier import SenseModel
    from pipeline.lexical.params import Reading


def entry(key: str, lemma: str, pos: str, gloss: str, **more: Any) -> dict[str, Any]:
    """A line of an inventory of one's own."""
    return {"key": key, "lemma": lemma, "pos": pos, "gloss": gloss, **more}


ENTRIES = (
    entry("bank.water", "bank", "NOUN", "land beside the river", examples=["a goat eats on the bank", "no such word"]),
    entry("dog.animal", "dog", "NOUN", "an old animal that eats a bone", examples=["The Dogs sleep", "my dog waits"]),
    entry("bank.money", "bank", "NOUN", "a market for apples", lemmas=["bank", "house_of_money"]),
    entry("dog.person", "Dog", "NOUN", "a lazy farmer"),
    entry("bank.row", "bank", "NOUN", "some nuts beside some nuts beside some nuts", examples=["a bank of switches"]),
    entry("walk.move", "walk", "VERB", "slowly look for the road", examples=["she walked home", "they go"]),
    entry("walk.way", "walk", "NOUN", "a dusty road"),
    entry("hide.skin", "hide", "VERB", "tired"),
    entry("hide.away", "hide", "VERB", "wait behind the door", examples=["it hides, hiding behind the hidden door"]),
    entry("pond.only", "frozen pond", "NOUN", "the river", lemmas=["frozen_pond"], examples=["Frozen ponds are warm"]),
)
"""Ten senses of six words. bank has three, dog (once with a capital), and hide as a verb two."""

WORDS = tuple({(line["lemma"].lower(), line["pos"]) for line in ENTRIES})


def write_inventory(path: Path, entries: Sequence[dict[str, Any]] = ENTRIES) -> Path:
    """Write entries as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in entries), encoding="utf-8")
    return path


def tiny_lexicon(folder: Path, entries: Sequence[dict[str, Any]] = ENTRIES) -> Lexicon:
    """A store `folder/lexicon` of entries, opened."""
    source = write_inventory(folder / "inventory.jsonl", entries)
    with contextlib.chdir(folder):
        build_lexicon(LexiconParams(kind="jsonl", path=str(source)), out=Path("lexicon"))
    return Lexicon.open(folder / "lexicon")


def tokenizer_with_quotes(folder: Path) -> Path:
    """The tiny WordPiece tokenizer with the marks that the texts of senses and of contexts add."""
    return fakes.write_tiny_wordpiece_tokenizer(folder, tokens=[*'":', *fakes.tiny_tokens()])


def span(text: str, word: str, *, gold: Sequence[str] = (), lemma: str | None = None, pos: str = "NOUN") -> Span:
    """The first place of `word` in `text`."""
    start = text.index(word)
    return Span(
        instance_id=f"{word}@{start}",
        start=start,
        end=start + len(word),
        lemma=lemma or word,
        pos=pos,
        gold=tuple(gold),
    )


def marked(text: str, *spans: Span, document: str = "d", number: int = 0, source: str = "made") -> Marked:
    """A sentence of a document."""
    return Marked(sentence_id=f"{document}.{number}", document_id=document, source=source, text=text, spans=spans)


STORY = (
    marked("the old dog waits.", span("the old dog waits.", "dog", gold=["dog.animal"])),
    marked(
        "a dog hides on the bank, and dogs walk",
        span("a dog hides on the bank, and dogs walk", "dog", gold=["dog.person", "dog.animal"]),
        span("a dog hides on the bank, and dogs walk", "hides", lemma="hide", pos="VERB", gold=["hide.away"]),
        span("a dog hides on the bank, and dogs walk", "bank", gold=["bank.water"]),
        span("a dog hides on the bank, and dogs walk", "walk", pos="VERB"),
        number=1,
    ),
    marked(
        "a bank of apples",
        span("a bank of apples", "bank", gold=["bank.row"]),
        source="examples of the inventory", document="e",
    ),
    marked(
        "the farmer brings hay to the frozen pond beside the bank, where the tired donkey hides behind the garden wall",
        span("the farmer brings hay to the frozen pond beside the bank", "frozen pond", gold=["pond.only"]),
        span("the farmer brings hay to the frozen pond beside the bank", "bank"),
        document="f",
    ),
    marked("it hides", span("it hides", "hides", lemma="hide", pos="VERB", gold=["hide.skin"]), document="f", number=1),
)  # fmt: skip
"""Three documents, nine words: one with two right senses, two that nobody annotated, one in an example."""


def sense_model(folder: Path, reading: Reading, *, seed: int = 0) -> SenseModel:
    """The model at `folder` with a random head: one that has just begun would score all candidates alike."""
    import torch
    from transformers import AutoModelForMaskedLM

    from pipeline.lexical.classifier import SenseHead, SenseModel

    lm = AutoModelForMaskedLM.from_pretrained(folder)
    head = SenseHead(lm.config.hidden_size, reading)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return SenseModel(lm, head).eval()
