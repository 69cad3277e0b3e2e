"""A text small enough to be learnt in a second, and senses of its words."""

from __future__ import annotations

import json
from pathlib import Path

ANIMALS = ("dog", "cat", "horse", "sheep", "mouse", "fox", "cow", "duck", "crow", "goat", "rabbit", "donkey")
PLACES = ("under the table", "on the roof", "beside the river", "on the hill", "behind the door", "in the forest")
FOODS = ("a bone", "milk", "an apple", "grass", "old cheese", "berries", "bread")
PATTERNS = (
    "The {animal} sleeps {place}. It dreams of {food}.",
    "Every morning the {animal} eats {food} {place}.",
    "A {animal} is an animal; it likes {food} and walks slowly {place}.",
    "When it rains, the {animal} waits {place}, and the farmer brings {food}.",
)
TEXTS = tuple(
    pattern.format(animal=animal, place=PLACES[(i + j + k) % 6], food=FOODS[(2 * i + j + 3 * k) % 7])
    for k in range(4)
    for i, animal in enumerate(ANIMALS)
    for j, pattern in enumerate(PATTERNS)
)
"""Some two hundred documents."""

SENSES = [
    {"key": "bank.water", "lemma": "bank", "pos": "NOUN", "gloss": "the hill beside the river",
     "examples": ["a goat eats on the bank", "the dog sleeps on the bank"]},
    {"key": "bank.money", "lemma": "bank", "pos": "NOUN", "gloss": "a table of the farmer",
     "examples": ["the farmer walks in the bank", "the bank brings bread"]},
    {"key": "walk.move", "lemma": "walk", "pos": "VERB", "gloss": "move slowly", "examples": ["the dogs walk slowly"]},
    {"key": "walk.way", "lemma": "walk", "pos": "VERB", "gloss": "bring to the door", "examples": ["walk the dog"]},
]  # fmt: skip


def write_texts(path: Path) -> Path:
    """One document a line, JSON."""
    lines = [json.dumps({"id": f"t{i:03}", "text": text}) for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_senses(path: Path) -> Path:
    """One sense a line, JSON."""
    path.write_text("".join(json.dumps(sense) + "\n" for sense in SENSES), encoding="utf-8")
    return path
