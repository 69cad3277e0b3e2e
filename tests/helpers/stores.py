"""Tiny real artefacts for tests, made in seconds without a network: texts, tokenizers, models, stores.

Nothing here imitates the code under test: tokenizers are real fast tokenizers, models are real two-layer BERTs, stores
are written by the functions of `pipeline`. Import what is needed: `from tests.helpers.stores import TINY_TEXT,
tiny_masks`. Helpers that make stores work in the folder they are given, so that no `.work` appears elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.core.runtime import Runtime
from pipeline.text.corpus_view import MaskedCorpus

ANIMALS = (
    ("old", "dog", "under the table", "a bone"),
    ("small", "cat", "on the warm roof", "fresh milk"),
    ("brown", "horse", "beside the river", "an apple"),
    ("white", "sheep", "on the green hill", "young grass"),
    ("grey", "mouse", "behind the kitchen door", "old cheese"),
    ("quick", "fox", "at the edge of the forest", "wild berries"),
    ("lazy", "cow", "in the shade of a tree", "sweet clover"),
    ("proud", "duck", "near the frozen pond", "dry bread"),
    ("clever", "crow", "above the market square", "a shiny nut"),
    ("hungry", "goat", "between the garden walls", "a cabbage leaf"),
    ("young", "rabbit", "inside the wooden box", "a carrot"),
    ("tired", "donkey", "along the dusty road", "some hay"),
)
PATTERNS = (
    "The {adjective} {animal} sleeps {place}. It dreams of {food}.",
    "Every morning the {animal} eats {food} {place}.",
    "A {animal} is an animal; it likes {food} and walks slowly {place}.",
    "The farmer looks for the {animal} {place}, but the {adjective} {animal} hides.",
    "When it rains, the {adjective} {animal} waits {place}, and the farmer brings {food}.",
)
TINY_TEXT: tuple[str, ...] = tuple(
    pattern.format(adjective=adjective, animal=animal, place=place, food=food)
    for adjective, animal, place, food in ANIMALS
    for pattern in PATTERNS
)
"""Sixty documents of 8 to 20 words, alike enough that two layers learn to predict masked words in seconds."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BERT_NAMES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
MPNET_NAMES = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "[UNK]", "mask": "<mask>"}


def write_jsonl(path: Path, texts: tuple[str, ...] = TINY_TEXT, *, source: str | None = None) -> Path:
    """Write texts as JSON Lines with ids t000, t001, …; the source is the animal unless one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [source or ANIMALS[i // len(PATTERNS) % len(ANIMALS)][1] for i in range(len(texts))]
    lines = [
        json.dumps({"id": f"t{i:03}", "source": name, "text": text}, ensure_ascii=False)
        for i, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_tokens(*, inflected: bool = False) -> list[str]:
    """WordPiece tokens of TINY_TEXT without special tokens: letters, "##" letters, "##ly", then words by frequency.

    Inflected words ("sleeps", "slowly") are whole only when asked for; else they are a stem and a suffix.
    """
    words = Counter(
        word for text in TINY_TEXT for word in "".join(c if c.isalpha() else " " for c in text.lower()).split()
    )
    whole: Counter[str] = Counter()
    for word, count in words.items():
        stem = word.removesuffix("ly") if word.endswith("ly") else word.removesuffix("s")
        cut = len(stem) >= 4 and stem != word and not stem.endswith("s")
        whole[word if inflected or not cut else stem] += count
    ordered = sorted(whole, key=lambda word: (-whole[word], word))
    return [*".,;'-", *LETTERS, *(f"##{letter}" for letter in LETTERS), "##ly", *(w for w in ordered if len(w) > 1)]


def write_tiny_wordpiece_tokenizer(
    folder: Path, *, tokens: list[str] | None = None, names: dict[str, str] | None = None
) -> Path:
    """Write an uncased WordPiece tokenizer folder that `transformers` loads; special tokens come first."""
    names = names or BERT_NAMES
    vocabulary = [*names.values(), *(tiny_tokens() if tokens is None else tokens)]
    backend = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token=names["unk"])  # type: ignore[call-arg]
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    folder = _write_tokenizer(folder, backend, names, class_name="BertTokenizer")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


def write_tiny_mpnet_tokenizer(folder: Path) -> Path:
    """Write a WordPiece tokenizer with other ids, other special names and whole inflected words, as MPNet's differs."""
    return write_tiny_wordpiece_tokenizer(folder, tokens=tiny_tokens(inflected=True)[::-1], names=MPNET_NAMES)


def write_tiny_bpe_tokenizer(folder: Path, *, size: int = 400) -> Path:
    """Write a cased byte-level BPE tokenizer, RoBERTa's kind, trained on TINY_TEXT."""
    names = MPNET_NAMES | {"unk": "<unk>"}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(names.values()), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TINY_TEXT, trainer)
    return _write_tokenizer(folder, backend, names, class_name="PreTrainedTokenizerFast")


def _write_tokenizer(folder: Path, backend: Tokenizer, names: dict[str, str], *, class_name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    backend.add_special_tokens(list(names.values()))
    ends = [(names[role], backend.token_to_id(names[role])) for role in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{names['cls']} $A {names['sep']}", pair=f"{names['cls']} $A {names['sep']} $B {names['sep']}",
        special_tokens=ends,
    )  # fmt: skip
    # As published tokenizers do: without no_padding() and no_truncation() every document would be cut.
    backend.enable_truncation(16)
    backend.enable_padding(length=16, pad_id=backend.token_to_id(names["pad"]), pad_token=names["pad"])
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": class_name,
        "model_max_length": 64,
        **{f"{r}_token": name for r, name in names.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def write_tiny_mlm(
    folder: Path, tokenizer_folder: Path, *, seed: int = 0, layers: int = 2, hidden: int = 32, steps: int = 0
) -> Path:
    """Write a BertForMaskedLM with the tokenizer as a Hugging Face folder; random, or trained for `steps`.

    About 150 steps on TINY_TEXT (2 s) are enough for a teacher of it that is accepted; without steps it is refused.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM

    backend = _backend(tokenizer_folder)
    names = _special_names(tokenizer_folder)
    config = BertConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        pad_token_id=backend.token_to_id(names["pad"]),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers take no generator; the fork leaves the global state as it was
        model = BertForMaskedLM(config)
    if steps:
        with _one_thread():
            _teach_tiny(model, backend, names, seed=seed, steps=steps)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, folder / name)
    return folder


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small gain nothing from a second thread, and on a busy machine they wait for it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _teach_tiny(model: object, backend: Tokenizer, names: dict[str, str], *, seed: int, steps: int) -> None:
    import torch

    pad, mask = backend.token_to_id(names["pad"]), backend.token_to_id(names["mask"])
    rows = [encoding.ids for encoding in backend.encode_batch(list(TINY_TEXT))]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    inside = torch.tensor([[0 < i < len(row) - 1 for i in range(width)] for row in rows])
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)  # type: ignore[attr-defined]
    model.train()  # type: ignore[attr-defined]
    for _ in range(steps):
        masked = inside & (torch.rand(ids.shape, generator=rng) < 0.2)
        logits = model(input_ids=ids.masked_fill(masked, mask), attention_mask=(ids != pad).long()).logits  # type: ignore[operator]
        loss = torch.nn.functional.cross_entropy(logits[masked], ids[masked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()  # type: ignore[attr-defined]


def _backend(folder: Path) -> Tokenizer:
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    return backend


def _special_names(folder: Path) -> dict[str, str]:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {role: config[f"{role}_token"] for role in BERT_NAMES}


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyStores:
    """Where the stores of one tiny corpus lie."""

    documents: Path
    sequences: Path
    masks: Path

    def corpus(self, **changes: Path) -> MaskedCorpus:
        """The stores, opened; `changes` are other places."""
        return MaskedCorpus.open(**(asdict(self) | changes))


def cpu_runtime(*, batch_tokens: int = 300, **changes: Any) -> Runtime:
    """On the CPU in float32 unless `changes` say otherwise; work folders lie in the current folder."""
    import torch

    return Runtime(**({"device": torch.device("cpu"), "dtype": torch.float32, "batch_tokens": batch_tokens} | changes))


def tiny_documents(
    folder: Path, *, texts: tuple[str, ...] = TINY_TEXT, calibration: float = 0.35, heldout: float = 0.25
) -> Path:
    """Run ingest and corpus over `texts` in `folder`; returns `folder/data/documents`."""
    from pipeline.text.documents.corpus import assemble
    from pipeline.text.documents.ingest import ingest
    from pipeline.text.params import CorpusParams, InputParams

    source = write_jsonl(folder / "texts" / "animals.jsonl", texts)
    params = InputParams(kind="jsonl", path=str(source), licence="made for tests")
    with contextlib.chdir(folder):
        ingest("animals", params, Path("data/text/animals"))
        assemble(
            Path("data/text"),
            {"animals": params},
            CorpusParams(share=1.0, calibration=calibration, heldout=heldout),
            Path("data/documents"),
        )
    return folder / "data" / "documents"


def tiny_sequences(folder: Path, tokenizer_folder: Path, *, sequence_tokens: int = 24) -> Path:
    """Tokenize `folder/data/documents` (made when absent); returns `folder/data/sequences`."""
    from pipeline.text.params import TokenizeParams
    from pipeline.text.tokenize import tokenize

    if not (folder / "data" / "documents").exists():
        tiny_documents(folder)
    params = TokenizeParams(tokenizer=str(tokenizer_folder), sequence_tokens=sequence_tokens)
    with contextlib.chdir(folder):
        tokenize(params, Path("data/documents"), out=Path("data/sequences"))
    return folder / "data" / "sequences"


def tiny_masks(
    folder: Path, tokenizer_folder: Path, *, rate: float = 0.3, copies: int = 2, seed: int = 0, shard_rows: int = 64
) -> TinyStores:
    """Mask words of `folder/data/sequences` (made when absent); returns where all three stores lie."""
    from pipeline.text.mask import mask
    from pipeline.text.params import MaskParams

    if not (folder / "data" / "sequences").exists():
        tiny_sequences(folder, tokenizer_folder)
    params = MaskParams(rate=rate, copies=copies, seed=seed, shard_rows=shard_rows)
    data = Path("data")
    with contextlib.chdir(folder):
        mask(params, data / "documents", sequences=data / "sequences", out=data / "masks")
    data = folder / data
    return TinyStores(documents=data / "documents", sequences=data / "sequences", masks=data / "masks")


def words_of(text: str, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """The characters between each start and end: what a person reads where a test has offsets."""
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Relative path to content of every file: two stores are the same when these are equal."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }
