"""Rewritten sets: what is replaced, by what, by which draw; and that a killed run ends in the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM

from pipeline.models.identity import weights_digest
from pipeline.models.masked_lm import masked_lm
from pipeline.tasks import rewrite as rewriting
from pipeline.tasks.paragraphs import Paragraph, replaceable, word_spans
from pipeline.tasks.params import RewriteParams
from pipeline.tasks.rewrite import Rewriter, rewrite
from pipeline.text.tokenizer import load_tokenizer
from storage.errors import DataError, VocabularyError
from storage.tables import DOCUMENT_SCHEMA, TableStore
from tests.helpers import stores as fakes
from tests.helpers.stores import cpu_runtime

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "model": "model", "split": "heldout", "shares": [0.2, 0.5], "temperature": 1.0, "top_k": 8, "words_min": 6,
    "words_max": 20, "paragraphs": 100, "test_share": 0.5, "seed": 0,
}  # fmt: skip


def settings(model: Path, **changes: Any) -> RewriteParams:
    return RewriteParams(**(SETTINGS | {"model": str(model)} | changes))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.tiny_documents(tmp_path_factory.mktemp("corpus"), calibration=0.2, heldout=0.6)


@pytest.fixture(scope="module")
def made(documents: Path, tiny_mlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rewrite(settings(tiny_mlm), documents, out=Path("set"), runtime=cpu_runtime(batch_tokens=256))
    return folder / "set"


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    schemas = {rewriting.TABLE: rewriting.SCHEMA}
    store = TableStore(
        folder, kind=rewriting.KIND, revision=rewriting.REVISION, schemas=schemas, made_by="rewrite@x"
    )  # fmt: skip
    return store.read(rewriting.TABLE).to_pylist(), store.manifest.facts


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def between(text: str) -> list[str]:
    """Spaces and punctuation: what stands around the words."""
    edges = [0, *(edge for span in word_spans(text) for edge in span), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


def paragraph(text: str, name: str = "d/0") -> Paragraph:
    return Paragraph(name=name, document="d", source="s", text=text)


def versions(rows: list[dict[str, Any]]) -> dict[float, dict[str, dict[str, Any]]]:
    found: dict[float, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["share"], {})[row["paragraph"]] = row
    return found


def test_every_paragraph_appears_once_as_it_was_and_once_a_share_rewritten(made: Path) -> None:
    rows, facts = read(made)
    by_share = versions(rows)
    assert sorted(by_share) == [0.0, 0.2, 0.5]
    names = set(by_share[0.0])
    assert all(set(part) == names for part in by_share.values())
    assert len(rows) == 3 * len(names) == 3 * facts["paragraphs"]
    assert {(row["share"] > 0, row["label"]) for row in rows} == {(False, 0), (True, 1)}


def test_documents_do_not_cross_from_train_to_test(made: Path) -> None:
    rows, facts = read(made)
    sides = {split: {row["document"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert sides["train"]
    assert sides["test"]
    assert not sides["train"] & sides["test"]
    assert facts["test"] == sum(row["split"] == "test" and row["share"] == 0 for row in rows)


def test_only_words_of_letters_change_as_many_as_asked_and_their_case_stays(made: Path) -> None:
    by_share = versions(read(made)[0])
    for share in (0.2, 0.5):
        for name, row in by_share[share].items():
            before, after = by_share[0.0][name]["text"], row["text"]
            old, new = words(before), words(after)
            changed = [number for number, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
            assert len(changed) == max(1, round(share * len(old)))
            assert set(changed) <= set(replaceable(before))
            assert all(new[number].isalpha() and new[number].lower() != old[number].lower() for number in changed)
            assert all(new[number][0].isupper() == old[number][0].isupper() for number in changed)
            assert between(before) == between(after)


def test_the_words_of_a_smaller_share_are_among_those_of_a_larger(made: Path) -> None:
    by_share = versions(read(made)[0])
    for name, row in by_share[0.0].items():
        changed = []
        for share in (0.2, 0.5):
            pairs = zip(words(row["text"]), words(by_share[share][name]["text"]), strict=True)
            changed.append({number for number, (old, new) in enumerate(pairs) if old != new})
        assert changed[0] <= changed[1]


def test_the_facts_name_the_model_and_what_was_dropped(made: Path, tiny_mlm: Path) -> None:
    facts = read(made)[1]
    assert facts["model"] == {"folder": str(tiny_mlm), "weights": weights_digest(tiny_mlm)}
    assert facts["seed"] == 0
    assert facts["shares"] == [0.2, 0.5]
    assert facts["dropped"]["longer than the model reads"] == 0


def test_the_most_probable_word_is_the_models_own_at_a_blank(tiny_mlm: Path) -> None:
    """Against `transformers`, with one masked word and top_k 1: the best whole word that is not the original."""
    text = "The old dog sleeps under the table."
    tokenizer = load_tokenizer(tiny_mlm)
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm:
        params = settings(tiny_mlm, top_k=1)
        (answer,) = Rewriter(lm, tokenizer, params, batch_tokens=64).rewrite([paragraph(text)], 0.1)
    assert answer is not None
    old, new = words(text), words(answer)
    (number,) = [n for n in range(len(old)) if old[n] != new[n]]
    start, end = word_spans(text)[number]
    around = [tokenizer.backend.encode(part, add_special_tokens=False).ids for part in (text[:start], text[end:])]
    special = tokenizer.special
    asked = [special["cls"], *around[0], special["mask"], *around[1], special["sep"]]
    model = AutoModelForMaskedLM.from_pretrained(tiny_mlm).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([asked])).logits[0, 1 + len(around[0])]
    vocabulary = (tiny_mlm / "vocab.txt").read_text(encoding="utf-8").split("\n")
    allowed = [
        token for token in logits.argsort(descending=True).tolist()
        if vocabulary[token].isalpha() and (len(vocabulary[token]) > 1 or vocabulary[token] in "ai")
        and vocabulary[token] != old[number].lower()
    ]  # fmt: skip
    assert new[number].lower() == vocabulary[allowed[0]]


def test_draws_follow_the_models_probabilities_among_the_top_k(tiny_mlm: Path) -> None:
    tokenizer = load_tokenizer(tiny_mlm)
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm:
        rewriter = Rewriter(lm, tokenizer, settings(tiny_mlm, top_k=3, temperature=2.0), batch_tokens=64)
        original = rewriter._words[0]
        logit_W = np.full(len(rewriter._words), -50.0)
        logit_W[:5] = [9.0, 3.0, 2.0, 1.0, 0.5]
        grid = (np.arange(3000) + 0.5) / 3000
        drawn = [rewriter._draw(logit_W.copy(), original, draw) for draw in grid]
        weights = np.exp(np.array([3.0, 2.0, 1.0]) / 2)
        for word, expected in zip(rewriter._words[1:4], weights / weights.sum(), strict=True):
            assert drawn.count(word) / len(drawn) == pytest.approx(expected, abs=1e-3)
        assert set(drawn) == set(rewriter._words[1:4])
        assert rewriter._draw(logit_W.copy(), original.upper(), 0.0) == rewriter._words[1].capitalize()


def test_no_round_masks_more_than_fifteen_per_cent(tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    answer = Rewriter._answer

    def spy(self: Rewriter, questions: list[rewriting.Question]) -> None:
        asked.extend((len(question.masked), len(question.draft.original)) for question in questions)
        answer(self, questions)

    monkeypatch.setattr(Rewriter, "_answer", spy)
    text = " ".join(["the dog eats a bone and the cat drinks milk"] * 2)
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm:
        rewriter = Rewriter(lm, load_tokenizer(tiny_mlm), settings(tiny_mlm), batch_tokens=64)
        rewriter.rewrite([paragraph(text)], 0.6)
    assert sum(masked for masked, _ in asked) == 12
    assert all(masked <= 0.15 * count for masked, count in asked)


def test_batches_decide_nothing(made: Path, documents: Path, tiny_mlm: Path, workplace: Path) -> None:
    rewrite(settings(tiny_mlm), documents, out=Path("set"), runtime=cpu_runtime(batch_tokens=4096))
    assert fakes.folder_bytes(workplace / "set") == fakes.folder_bytes(made)


def test_a_killed_run_continues_and_ends_in_the_same_bytes(
    made: Path, documents: Path, tiny_mlm: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    whole = Rewriter.rewrite

    def killed(self: Rewriter, paragraphs: list[Paragraph], share: float) -> list[str | None]:
        asked.append(share)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(self, paragraphs, share)

    monkeypatch.setattr(rewriting, "CHUNK_PARAGRAPHS", 20)
    monkeypatch.setattr(Rewriter, "rewrite", killed)
    arguments: dict[str, Any] = {"out": Path("set"), "runtime": cpu_runtime(batch_tokens=256)}
    with pytest.raises(KeyboardInterrupt):
        rewrite(settings(tiny_mlm), documents, **arguments)
    assert not Path("set").exists()
    rewrite(settings(tiny_mlm), documents, **arguments)
    chunks = -(-read(made)[1]["paragraphs"] // 20)
    assert len(asked) == 2 * chunks + 1
    assert fakes.folder_bytes(workplace / "set") == fakes.folder_bytes(made)


def test_another_seed_rewrites_otherwise(made: Path, documents: Path, tiny_mlm: Path, workplace: Path) -> None:
    rewrite(settings(tiny_mlm, seed=1, shares=[0.2]), documents, out=Path("set"), runtime=cpu_runtime(batch_tokens=256))
    first, second = versions(read(made)[0]), versions(read(workplace / "set")[0])
    assert first[0.0] == second[0.0]
    assert first[0.2] != second[0.2]


def test_a_byte_level_vocabulary_writes_whole_words_too(tmp_path: Path, tiny_bpe_tokenizer: Path) -> None:
    model = fakes.write_tiny_mlm(tmp_path / "bpe", tiny_bpe_tokenizer)
    tokenizer = load_tokenizer(model)
    text = "The old dog sleeps under the table and dreams."
    with masked_lm(model, device=CPU, dtype=torch.float32) as lm:
        rewriter = Rewriter(lm, tokenizer, settings(model), batch_tokens=64)
        (answer,) = rewriter.rewrite([paragraph(text)], 0.5)
    assert answer is not None
    old, new = words(text), words(answer)
    changed = [after for before, after in zip(old, new, strict=True) if before != after]
    assert len(changed) == 4
    whole = {token.removeprefix("▁").lower() for token in tokenizer.tokens if token.startswith("▁")}
    assert all(word.lower() in whole for word in changed)


def test_a_paragraph_longer_than_the_model_reads_is_dropped_and_counted(tiny_mlm: Path, workplace: Path) -> None:
    long = " ".join(f"dog eats the bone {n}" for n in range(20))
    rows = [{"doc_id": f"d{n}", "source": "s", "text": f"The old dog number {n} sleeps here."} for n in range(8)]
    write_heldout(workplace / "documents", [*rows, {"doc_id": "long", "source": "s", "text": long}])
    params = settings(tiny_mlm, words_max=150)
    manifest = rewrite(params, workplace / "documents", out=Path("set"), runtime=cpu_runtime(batch_tokens=256))
    assert manifest.facts["dropped"]["longer than the model reads"] == 1
    assert manifest.facts["paragraphs"] == 8
    assert "long" not in {row["document"] for row in read(Path("set"))[0]}


def test_what_is_not_used_is_counted_by_reason(tiny_mlm: Path) -> None:
    texts = ["the dog eats a big bone", "the dog eats a big bone", "1 2 3 4 5 six", "too short"]
    texts += [f"the {word} eats a big bone" for word in ("cat", "cow", "fox", "goat", "crow", "duck", "mouse")]
    rows = [{"doc_id": f"d{n}", "source": "s", "text": text} for n, text in enumerate(texts)]
    table = pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)
    chosen, dropped = rewriting.choose_paragraphs(table, settings(tiny_mlm, paragraphs=5))
    assert len(chosen) == 5
    assert dropped == {"same text as another": 1, "too few words of letters": 1, "too few words": 1,
                       "beyond the limit": 3}  # fmt: skip
    more, _ = rewriting.choose_paragraphs(table, settings(tiny_mlm, paragraphs=6))
    assert {paragraph.name for paragraph in chosen} < {paragraph.name for paragraph in more}


def test_parts_of_one_document_belong_together(tiny_mlm: Path) -> None:
    words = ("dog", "cat", "cow", "fox", "goat", "crow", "duck", "mouse")
    rows = [{"doc_id": f"part{n // 2}#{n % 2:04}", "source": "s", "text": f"the {word} eats a big bone"}
            for n, word in enumerate(words)]  # fmt: skip
    chosen, _ = rewriting.choose_paragraphs(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA), settings(tiny_mlm))
    assert {paragraph.document for paragraph in chosen} == {"part0", "part1", "part2", "part3"}


def test_text_for_one_side_only_is_refused(tiny_mlm: Path, workplace: Path) -> None:
    write_heldout(workplace / "documents", [{"doc_id": "d", "source": "s", "text": "the dog eats a big bone"}])
    with pytest.raises(DataError, match=r"1 paragraphs of 6 to 20 words, [01] of them for testing"):
        rewrite(settings(tiny_mlm), workplace / "documents", out=Path("set"), runtime=cpu_runtime(batch_tokens=256))
    assert not Path("set").exists()


def test_a_vocabulary_without_whole_words_is_refused(tmp_path: Path) -> None:
    tokens = [*fakes.LETTERS, *(f"##{letter}" for letter in fakes.LETTERS)]
    tokenizer = fakes.write_tiny_wordpiece_tokenizer(tmp_path / "letters", tokens=[t for t in tokens if t != "i"])
    model = fakes.write_tiny_mlm(tmp_path / "model", tokenizer)
    with masked_lm(model, device=CPU, dtype=torch.float32) as lm:
        with pytest.raises(VocabularyError, match="no token of the vocabulary is a whole word"):
            Rewriter(lm, load_tokenizer(model), settings(model), batch_tokens=64)


@pytest.mark.parametrize(("changes", "message"), [
    ({"shares": [0.2, 0.2]}, "shares must be different numbers between 0 and 1"),
    ({"shares": [1.0]}, "shares must be different numbers between 0 and 1"),
    ({"words_max": 5}, "words_max must be at least words_min"),
    ({"temperature": 0.0}, "greater than 0"),
])  # fmt: skip
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(Path("model"), **changes)


def write_heldout(folder: Path, rows: list[dict[str, str]]) -> None:
    from storage.documents import write_documents
    from storage.work import Workspace

    table = pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)
    tables = {split: table.slice(0, len(table) if split == "heldout" else 0) for split in ("train", "heldout")}
    write_documents(folder, tables, inputs={"texts": json.dumps(rows)}, facts={}, workspace=Workspace())
