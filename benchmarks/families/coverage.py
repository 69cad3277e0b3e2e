"""How many of a WordPiece student's masked positions a teacher with another vocabulary answers, by kind of position.

Teachers' vocabularies are trained here on the glosses, 30,000 tokens each, so nothing is fetched; a folder with another
tokenizer joins by --teacher NAME=FOLDER. `answered_before` counts words that both vocabularies cut alike, whose
predictions are the teacher's own; the others are answered by `pipeline.teach.words`. `one_token` is the share of
positions of other words that the teacher has as one token: as many could a teacher name with one mask a word.
Alignment needs no model; `benchmarks.families.likelihood` fills in what one says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.teach.words import word_outcomes
from pipeline.text.alignment import teacher_view
from pipeline.text.documents.ingest import ALL
from pipeline.text.documents.readers import read_json_lines
from pipeline.text.documents.records import Fields, Found
from pipeline.text.masking import choose_masked_positions
from pipeline.text.places import PLACES, place_of_each
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.text.vocabulary import bridge, space_variants
from pipeline.text.windows import encode_windows
from storage.documents import DocumentStore
from storage.format.arrays import sentinel
from storage.records.sequences import Masks, Sequences

NAMES = {"pad": "<pad>", "mask": "<mask>", "cls": "<s>", "sep": "</s>", "unk": "<unk>"}
TOKENS = 30_000
KINDS = ("wordpiece-uncased", "wordpiece-cased", "byte-bpe", "unigram")
SEQUENCE_TOKENS, RATE = 128, 0.15
POSITIONS = 100_000
"""Tokens a teacher reads: the length of its positions is not what is measured."""


def train_teacher(kind: str, texts: Sequence[str], folder: Path, *, tokens: int = TOKENS) -> FastTokenizer:
    """A tokenizer of one kind over `texts`, as model folders have it."""
    special = list(NAMES.values())
    backend: Tokenizer
    trainer: Any
    if kind.startswith("wordpiece"):
        backend = Tokenizer(models.WordPiece(unk_token=NAMES["unk"]))
        backend.normalizer = normalizers.BertNormalizer(lowercase=kind.endswith("uncased"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=tokens, special_tokens=special, show_progress=False)
    elif kind == "byte-bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=tokens, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=tokens, special_tokens=special, unk_token=NAMES["unk"], show_progress=False
        )
    backend.train_from_iterator(texts, trainer)
    ends = [(NAMES[role], backend.token_to_id(NAMES[role])) for role in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {f"{role}_token": name for role, name in NAMES.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_tokenizer(folder)


def masked(texts: list[str], student: FastTokenizer) -> tuple[list[str], Sequences, Masks]:
    """Each sequence's text, the sequences, and their masks, as the stages `tokenize` and `mask` make them."""
    sequences, _ = encode_windows(texts, student, sequence_tokens=SEQUENCE_TOKENS)
    masks = choose_masked_positions(
        sequences,
        [str(document) for document in sequences.document_N.tolist()],
        rate=RATE,
        copies=1,
        seed=0,
        unknown=student.special["unk"],
        white_space_V=np.zeros(len(student.tokens), bool),
    )
    return [texts[document] for document in sequences.document_N.tolist()], sequences, masks


def answered(
    teacher: FastTokenizer, student: FastTokenizer, text: tuple[list[str], Sequences, Masks]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Masked positions answered with words that are cut alike; with all words; and of words of one teacher token."""
    view, gold_P = teacher_view(
        *text,
        tokenizer=teacher.backend,
        to_student_V=bridge(teacher.tokens, student.tokens).to_student_V,
        special=teacher.special,
        positions=POSITIONS,
        variant_V=space_variants(teacher.tokens, student.tokens),
    )
    alike_P = np.asarray(gold_P != sentinel(gold_P.dtype))
    all_P, one_P = alike_P.copy(), np.zeros(len(alike_P), bool)
    words, outcomes = view.cut_words, word_outcomes(teacher, student)
    if words is not None and outcomes is not None:
        label_P = text[2].label_P.astype(np.int64)
        for w, first in enumerate(words.prediction_W.tolist()):
            own = slice(first, first + int(words.reference_tokens_W[w]))
            all_P[own] = outcomes.outcome_V[label_P[own]].min() >= 0
            one_P[own] = words.tokens_W[w] == 1
    return alike_P, all_P, one_P


def rows(
    name: str, teacher: FastTokenizer, student: FastTokenizer, texts: dict[str, tuple[list[str], Sequences, Masks]]
) -> list[dict[str, Any]]:
    """One row a text."""
    made = []
    for label, text in texts.items():
        place_P = place_of_each(*text)
        before_P, now_P, one_P = answered(teacher, student, text)
        made.append(
            {
                "kind": name,
                "text": label,
                "positions": len(place_P),
                "answered": round(float(now_P.mean()), 4),
                "answered_before": round(float(before_P.mean()), 4),
                "one_token": round(float(one_P.mean()), 4),
                "by_place": {
                    place: {
                        "share": round(float((place_P == i).mean()), 4),
                        "answered": round(float(now_P[place_P == i].mean()), 4),
                        "answered_before": round(float(before_P[place_P == i].mean()), 4),
                    }
                    for i, place in enumerate(PLACES)
                    if (place_P == i).any()
                },
                "nll_same_blanks": None,
            }
        )
    return made


def measure(
    student: Path, glosses: Path, texts: Path | None, *, documents: int, teachers: Sequence[str], scratch: Path
) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Rows of all kinds on both texts, and the folder of each kind's tokenizer; `teachers` are NAME=FOLDER."""
    reference = load_tokenizer(student)
    pages = DocumentStore(glosses).read(ALL).column("text").to_pylist()
    judged = {"wordnet": masked(pages[:: max(1, len(pages) // documents)], reference)}
    if texts is not None:
        found = list(read_json_lines(texts, Fields(text="text", name=None), lambda _: None))
        judged["mixed"] = masked([item.text for item in found if isinstance(item, Found)][:documents], reference)
    lines = [line for page in pages for line in page.split("\n")]
    made, folders = [], {}
    for kind in KINDS:
        folders[kind] = scratch / kind
        made += rows(kind, train_teacher(kind, lines, folders[kind]), reference, judged)
        click.echo(json.dumps([{key: row[key] for key in ("kind", "text", "answered")} for row in made[-2:]]))
    for name, _, path in (entry.partition("=") for entry in teachers):
        made += rows(name, load_tokenizer(Path(path)), reference, judged)
    return made, folders
