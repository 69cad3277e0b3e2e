"""Open a model folder's tokenizer, find its special tokens, and tell words apart.

The result is that of transformers. Where the files suffice, tokenizer.json is read directly, which is faster. A folder
without one, or one that names no special tokens, is opened by `transformers.AutoTokenizer`, whose class knows the
missing part. Nothing in the folder is executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models.files import VOCABULARY_FILES, files_like
from pipeline.text.vocabulary import is_punctuation, normalised_tokens
from storage.errors import SourceError, VocabularyError
from storage.format.manifest import digest, file_sha256

ROLES = ("pad", "mask", "cls", "sep", "unk")
FALLBACK_ROLES = {"cls": "bos", "sep": "eos"}
"""Where a tokenizer names no cls and sep token, its begin and end tokens are used."""
USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "unk": ("[UNK]", "<unk>"),
}
"""Spellings of special tokens; the first one found counts."""
TWO_WORDS = "a a"


@dataclass(frozen=True, kw_only=True, slots=True)
class FastTokenizer:
    """A tokenizer folder, opened: without padding or truncation; special tokens spelt out in a text are text."""

    folder: Path
    backend: Any
    """`tokenizers.Tokenizer`."""
    special: dict[str, int]
    """Role (pad, mask, cls, sep, unk) to id."""
    tokens: list[str]
    """Normalised token of every id (`pipeline.text.vocabulary`)."""
    prefix: list[int]
    """Special ids the tokenizer puts before a text."""
    suffix: list[int]
    """Special ids it puts after it."""
    identity: str
    """SHA-256 of what decides ids: tokenizer.json and the special ids."""
    tells_words: bool = True
    """True where the pre-tokenizer tells words apart; else a token that begins with START begins a word."""

    def words(self, text: str, encoding: Any) -> list[int | None]:
        """The word of each token of `encoding`, which was made of `text` without special tokens; None for no word."""
        if self.tells_words:
            words: list[int | None] = encoding.word_ids
            return words
        return words_by_spaces(text, encoding.offsets)


def load_tokenizer(folder: Path) -> FastTokenizer:
    """Open the tokenizer in `folder`; much slower where `transformers` has to open it.

    Raises SourceError when there is no readable tokenizer, VocabularyError when a special token is not known.
    """
    path = folder / "tokenizer.json"
    backend = _read(path) if path.is_file() else _convert(folder)
    # Published files set both, and would silently cut every document at, say, 128 tokens.
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True  # "[MASK]" in a text is text
    special = _special_ids(folder, backend)
    encoding = backend.encode("a")
    inside = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (len(encoding.ids), len(encoding.ids))
    content = file_sha256(path) if path.is_file() else digest({"converted": backend.to_str()})
    return FastTokenizer(
        folder=folder,
        backend=backend,
        special=special,
        tokens=normalised_tokens(backend, special=special),
        prefix=encoding.ids[:first],
        suffix=encoding.ids[last:],
        identity=digest({"tokenizer": content, "special": special}),
        tells_words=_tells_words(backend),
    )


def shortened(tokenizer: FastTokenizer, rows: int) -> FastTokenizer:
    """The tokenizer without the tokens whose id is `rows` or more, for which a model's matrix has no row.

    A text is cut into the tokens that are left, or the unknown one. Raises VocabularyError when a special token goes.
    """
    from tokenizers import Tokenizer

    if rows >= len(tokenizer.tokens):
        return tokenizer
    for role, number in tokenizer.special.items():
        if number >= rows:
            raise VocabularyError(
                f"{tokenizer.folder}: the tokenizer has {len(tokenizer.tokens)} ids, among them {number} of the {role} "
                f"token, the model has {rows}: they do not belong together. Give the model with its own tokenizer"
            )
    state = json.loads(tokenizer.backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < rows]
    vocabulary = state["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces and their scores, by id
        state["model"]["vocab"] = vocabulary[:rows]
    else:
        kept = {token: number for token, number in vocabulary.items() if number < rows}
        state["model"]["vocab"] = kept
        if "merges" in state["model"]:
            pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in state["model"]["merges"]]
            state["model"]["merges"] = [pair for pair in pairs if {*pair, "".join(pair)} <= kept.keys()]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.encode_special_tokens = True  # no part of the state
    return replace(tokenizer, backend=backend, tokens=tokenizer.tokens[:rows])


def words_by_spaces(text: str, offsets: list[tuple[int, int]]) -> list[int | None]:
    """Number the words of tokens with characters [start, stop) of `text`, for a tokenizer that does not tell them.

    A word begins where a token has or follows a space, and at each mark of punctuation, which is a word of its own, as
    pre-tokenizers have it. A token that is nothing but a space belongs to the token after it.
    """
    words: list[int | None] = []
    word, only_space, end = -1, False, 0
    for start, stop in offsets:
        begin = start
        while begin < stop and text[begin].isspace():
            begin += 1
        new = begin > start or start == 0 or text[start - 1].isspace()
        if begin < stop and start > 0:
            new = new or is_punctuation(text[begin]) or is_punctuation(text[start - 1])
        within = start < end  # a part of a character that began in the token before
        if word < 0 or (new and not only_space and not within):
            word += 1
        words.append(word)
        only_space, end = begin == stop and stop > start, max(end, stop)
    return words


def _tells_words(backend: Any) -> bool:
    """False where the normalizer leaves no space for the pre-tokenizer to cut at, or there is no pre-tokenizer."""
    text = TWO_WORDS if backend.normalizer is None else backend.normalizer.normalize_str(TWO_WORDS)
    return backend.pre_tokenizer is not None and len(backend.pre_tokenizer.pre_tokenize_str(text)) > 1


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise SourceError(f"{path}: not a tokenizer: {' '.join(str(error).split())[:200]}") from error


def _convert(folder: Path) -> Any:
    """The fast tokenizer that transformers converts vocab.txt, merges or a SentencePiece model to."""
    if not folder.is_dir() or not files_like(folder, VOCABULARY_FILES):
        raise SourceError(f"{folder}: expected tokenizer.json of a fast tokenizer, found none. Run: dvc repro sources")
    try:
        return _by_transformers(folder).backend_tokenizer
    except Exception as error:  # each converter has its own
        raise SourceError(
            f"{folder}: no tokenizer.json, and transformers makes no fast tokenizer of its files: "
            f"{' '.join(str(error).split())[:200]}. Save one with AutoTokenizer and name that folder"
        ) from error


def _by_transformers(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)


def _special_ids(folder: Path, backend: Any) -> dict[str, int]:
    """Role to id: from the names in the folder's files, else from transformers' class, else by the usual spellings."""
    named: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            named |= json.loads((folder / name).read_text(encoding="utf-8"))
    special = _ids_of(named, backend)
    unnamed = {role for role in ROLES if _content(named, role) is None}
    for more in (_names_of_class, _usual_names):
        if unnamed - special.keys():
            found = _ids_of(more(folder, backend), backend)
            special |= {role: found[role] for role in unnamed - special.keys() if role in found}
    for role in ROLES:
        if role not in special:
            raise VocabularyError(
                f"{folder}: tokenizer_config.json: expected {role}_token, a token of the vocabulary, got "
                f"{_content(named, role)!r}. A masked language model needs pad, mask, cls, sep and unk tokens"
            )
    return {role: special[role] for role in ROLES}


def _ids_of(named: dict[str, Any], backend: Any) -> dict[str, int]:
    """The roles whose token is named and in the vocabulary."""
    ids = {role: backend.token_to_id(content) for role in ROLES if (content := _content(named, role)) is not None}
    return {role: int(number) for role, number in ids.items() if number is not None}


def _content(named: dict[str, Any], role: str) -> str | None:
    value = named.get(f"{role}_token") or named.get(f"{FALLBACK_ROLES.get(role, role)}_token")
    content: str | None = value.get("content") if isinstance(value, dict) else value
    return content


def _names_of_class(folder: Path, _: Any) -> dict[str, Any]:
    """The special tokens named by transformers' class for this folder; empty where there is none."""
    try:
        tokenizer = _by_transformers(folder)
    except Exception:  # a folder that is a tokenizer only has no configuration that names a class
        return {}
    return {f"{role}_token": getattr(tokenizer, f"{role}_token", None) for role in (*ROLES, *FALLBACK_ROLES.values())}


def _usual_names(_: Path, backend: Any) -> dict[str, str]:
    """Special added tokens with the spellings that BERT's or RoBERTa's descendants use."""
    added = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    return {f"{role}_token": content for role in ROLES for content in reversed(USUAL_NAMES[role]) if content in added}
