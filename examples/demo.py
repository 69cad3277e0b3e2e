"""The whole way, on tiny models that are made here: `make demo`, or python examples/demo.py [FOLDER].

Two teachers of two layers learn from generated sentences, each mostly of one domain. `cohesive init` makes a project of
them, `dvc repro` runs it: stores of predictions, a fusion by position, a student and its control, and the report. No
network is used, and nothing is written outside the folder, by default a new one for temporary files. Numbers of models
so small say nothing about others.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DOMAINS = {
    "animals": (
        ("dog", "cat", "horse", "sheep", "mouse", "fox", "cow", "duck", "crow", "goat", "rabbit", "donkey"),
        ("old", "small", "brown", "white", "grey", "quick", "lazy", "proud", "clever", "hungry", "young", "tired"),
        ("barn", "roof", "river", "hill", "forest", "meadow", "garden", "pond", "road", "yard", "field", "stable"),
        (
            "bones",
            "milk",
            "apples",
            "grass",
            "cheese",
            "berries",
            "clover",
            "bread",
            "nuts",
            "leaves",
            "carrots",
            "hay",
        ),
        (
            "The {adjective} {noun} sleeps near the {place} and dreams of {thing}.",
            "Every morning the {noun} eats {thing} beside the {place}.",
            "A {adjective} {noun} is an animal that likes {thing} and walks slowly to the {place}.",
            "The farmer looks for the {adjective} {noun} behind the {place} and brings {thing}.",
        ),
    ),
    "trades": (
        ("baker", "smith", "tailor", "potter", "miller", "mason", "weaver", "printer", "painter", "carpenter", "cook"),
        ("rich", "poor", "busy", "famous", "honest", "strict", "cheerful", "patient", "careful", "modern", "noble"),
        ("market", "bridge", "harbour", "castle", "church", "mill", "tower", "square", "gate", "inn", "workshop"),
        ("loaves", "a sword", "a coat", "pots", "flour", "stones", "cloth", "books", "a portrait", "a table", "soup"),
        (
            "The {adjective} {noun} works at the {place} and sells {thing}.",
            "Every evening the {noun} carries {thing} through the {place}.",
            "A {adjective} {noun} is a person who makes {thing} and lives above the {place}.",
            "The king asks the {adjective} {noun} at the {place} for {thing} again.",
        ),
    ),
}
"""Nouns, their adjectives, places and things in the same order, and sentences."""
DOCUMENTS = 240
"""Of each domain: two sentences about one thing."""
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
STEPS, BATCH, OTHER_DOMAIN = 160, 64, 0.1


def sentences(domain: str) -> list[str]:
    """Documents of a domain: a noun keeps its thing, and has a choice of adjectives and places."""
    nouns, adjectives, places, things, patterns = DOMAINS[domain]
    rng = random.Random(domain)
    documents = []
    for number in range(DOCUMENTS):
        which = number % len(nouns)

        def near(words: tuple[str, ...], most: int, *, at: int = which) -> str:
            return words[(at + rng.randrange(most)) % len(words)]

        documents.append(
            " ".join(
                pattern.format(
                    noun=nouns[which], adjective=near(adjectives, 2), place=near(places, 3), thing=things[which]
                )
                for pattern in rng.sample(patterns, 2)
            )
        )
    return documents


def write_texts(folder: Path) -> dict[str, list[str]]:
    """One text as CSV, the other as JSON Lines."""
    folder.mkdir(parents=True)
    texts = {domain: sentences(domain) for domain in DOMAINS}
    with (folder / "animals.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", "text"), *enumerate(texts["animals"])])
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(texts["trades"])]
    (folder / "trades.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts


def write_model(folder: Path, texts: dict[str, list[str]], *, knows: str | None, seed: int) -> None:
    """A BERT of two layers with a WordPiece vocabulary of its own; one that knows a domain was trained on it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM

    letters = "abcdefghijklmnopqrstuvwxyz"
    every = [text for domain in texts.values() for text in domain]
    words = Counter("".join(c if c.isalpha() else " " for text in every for c in f"{text} ".lower()).split())
    tokens = [*SPECIAL.values(), *letters, *(f"##{c}" for c in letters), ".", *sorted(words - Counter(letters))]
    if knows is not None:  # another order of ids than the student's: vocabularies need not agree
        tokens = tokens[:5] + random.Random(seed).sample(tokens[5:], len(tokens) - 5)
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token=SPECIAL["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(list(SPECIAL.values()))
    ends = [(SPECIAL[role], tokens.index(SPECIAL[role])) for role in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    torch.manual_seed(seed)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokens),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=64,
            pad_token_id=0,
        )
    )
    if knows is not None:
        rng = random.Random(seed)
        others = [text for domain in texts if domain != knows for text in texts[domain]]
        pool = texts[knows] + rng.sample(others, int(OTHER_DOMAIN * len(others)))
        train(model, backend, pool, seed=seed)
    model.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    config |= {f"{role}_token": name for role, name in SPECIAL.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def train(model, backend, pool: list[str], *, seed: int) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Masked language modelling of a pool of documents."""
    import torch

    rows = [encoding.ids for encoding in backend.encode_batch(pool)]
    width = max(map(len, rows))
    ids_NL = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    inside_NL = torch.tensor([[0 < i < len(row) - 1 for i in range(width)] for row in rows])
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    mask = backend.token_to_id(SPECIAL["mask"])
    model.train()
    for _ in range(STEPS):
        chosen = torch.randint(len(rows), (BATCH,), generator=rng)
        ids, inside = ids_NL[chosen], inside_NL[chosen]
        masked = inside & (torch.rand(ids.shape, generator=rng) < 0.2)
        logits = model(input_ids=ids.masked_fill(masked, mask), attention_mask=(ids != 0).long()).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits[masked], ids[masked]).backward()
        optimizer.step()
    model.eval()


def shorten(params: Path) -> None:
    """Leave out one-teacher controls and measured costs, and train as long and as fast as suits models so small."""
    lines = params.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("only-"))
    text = re.sub(r"(\n  costs:)(\n    .*)+", r"\1 {}", text)
    for old, new in (
        (r"learning_rate: 1\.2e-4", "learning_rate: 3.0e-3"),
        (r"\n *learning_rate: 8\.0e-5.*", ""),  # of labels-only: models so small all learn as fast
        (r"copies: 1", "copies: 3"),
        (r"steps: \d+", "steps: 200"),
    ):
        text = re.sub(old, new, text, count=1)
    params.write_text(text + "\n", encoding="utf-8")


def call(folder: Path, *command: str) -> None:
    """Run a command of the project in a folder; a failure ends the demonstration with its exit code."""
    print("$", " ".join(command), flush=True)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder if (folder / "stages").is_dir() else ROOT),
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main(folder: Path) -> None:
    """Make models and texts, the project, and its results."""
    if any(folder.glob("*")):
        sys.exit(f"Error: {folder}: is not empty. Give a new folder")
    print(f"Two tiny teachers, a student and texts, in {folder}", flush=True)
    texts = write_texts(folder / "texts")
    for number, (name, knows) in enumerate({"of-animals": "animals", "of-trades": "trades", "student": None}.items()):
        write_model(folder / "tiny" / name, texts, knows=knows, seed=number)
    project = folder / "project"
    call(
        folder, "python", "-m", "stages.tools.cohesive", "init", "project",
        "-t", "tiny/of-animals", "-t", "tiny/of-trades", "--student", "tiny/student",
        "--text", "texts/animals.csv", "--text", "texts/trades.jsonl",
    )  # fmt: skip
    shorten(project / "params.yaml")
    call(project, "dvc", "repro", "--quiet")
    summary = json.loads((project / "reports" / "summary.json").read_text(encoding="utf-8"))
    for section in ("teachers", "fusions", "students"):
        for name, entry in summary[section].items():
            print(f"{section[:-1]:8} {name:12} held-out NLL {entry['nll']:.3f}, accuracy {entry['accuracy']:.3f}")
    print("Models so small say nothing about the quality of others: this shows that all stages work")
    print(f"All of it is in {folder}; remove that folder when you have seen it")
    print(f"Open in a browser: {(project / 'reports' / 'index.html').as_uri()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder; by default one for temporary files")
    given = parser.parse_args().folder
    main(Path(tempfile.mkdtemp(prefix="cohesive-demo-")) if given is None else given.absolute())
