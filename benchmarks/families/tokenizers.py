"""Tokenizers of the three kinds, trained on a text and written as the hub has them: as few files, as little in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from benchmarks.families.configs import Family

VOCABULARY = 400
"""Tokens at most, special tokens included."""


def write_tokenizer(
    folder: Path, family: Family, texts: Sequence[str], *, vocabulary: int = VOCABULARY
) -> dict[str, int]:
    """Train the family's kind of tokenizer on `texts` and write tokenizer.json and tokenizer_config.json.

    Returns the id of each role. The configuration names no special token unless the family's published folders do:
    `{"do_lower_case": true, "model_max_length": 512}` is all that google-bert/bert-base-uncased has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = family.names
    first = [names[role] for role in family.first]
    last = [name for role, name in names.items() if role not in family.first]
    backend = {"wordpiece": _wordpiece, "byte-bpe": _byte_bpe, "unigram": _unigram}[family.kind](
        texts, first, names["unk"], vocabulary - len(last)
    )
    backend.add_special_tokens([*first, *last])
    special = {role: _id_of(backend, name) for role, name in names.items()}
    ends = [(names[role], special[role]) for role in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{names['cls']} $A {names['sep']}", special_tokens=ends
    )
    backend.save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {"model_max_length": 512}
    if family.kind == "wordpiece":
        config = {"do_lower_case": True, **config}
    if family.named:
        config |= {f"{role}_token": name for role, name in names.items()}
        config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return special


def _id_of(backend: Tokenizer, token: str) -> int:
    number = backend.token_to_id(token)
    assert number is not None, token
    return int(number)


def _wordpiece(texts: Sequence[str], first: list[str], unknown: str, vocabulary: int) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=first, show_progress=False)
    )
    return backend


def _byte_bpe(texts: Sequence[str], first: list[str], unknown: str, vocabulary: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=first,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _unigram(texts: Sequence[str], first: list[str], unknown: str, vocabulary: int) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        texts,
        trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=first, unk_token=unknown, show_progress=False),
    )
    return backend


def write_gemma_like(folder: Path, texts: Sequence[str], *, vocabulary: int = VOCABULARY) -> Path:
    """Write a tokenizer as Gemma's and mmBERT's: BPE over a text whose spaces became "▁" before any cut."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"pad": "<pad>", "sep": "<eos>", "cls": "<bos>", "unk": "<unk>", "mask": "<mask>"}
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token=names["unk"]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Replace("▁", " ")
    words = Tokenizer(models.BPE(unk_token=names["unk"]))
    words.normalizer = backend.normalizer
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation()]
    )
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(names.values()), show_progress=False),
    )
    raw = json.loads(words.to_str())["model"]
    merges = [tuple(merge) for merge in raw["merges"]]
    backend.model = models.BPE(vocab=raw["vocab"], merges=merges, unk_token=names["unk"], byte_fallback=True)
    backend.add_special_tokens(list(names.values()))
    ends = [(names[role], _id_of(backend, names[role])) for role in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    backend.save(str(folder / "tokenizer.json"))
    config = {f"{role}_token": name for role, name in names.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
