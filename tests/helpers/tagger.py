"""NLTK's tagger of English, trained here on a few words and saved as NLTK's data lie; needs no network."""

from __future__ import annotations

import json
from pathlib import Path

TAGS = {
    "the": "DT", "a": "DT", "on": "IN", "by": "IN", "behind": "IN", "and": "CC", "it": "PRP", "they": "PRP",
    "dog": "NN", "dogs": "NNS", "bank": "NN", "banks": "NNS", "goat": "NN", "pond": "NN", "road": "NN", "river": "NN",
    "old": "JJ", "frozen": "JJ", "slowly": "RB", "hides": "VBZ", "hiding": "VBG", "waits": "VBZ", "walked": "VBD",
}  # fmt: skip
"""Seen so often that the tagger looks them up; it guesses all others from their neighbours."""


def install_tagger(root: Path) -> Path:
    """The folder of NLTK's data, with a tagger that knows `TAGS`, and walk after "a" from walk after "they"."""
    from nltk.tag import PerceptronTagger

    tagger = PerceptronTagger(load=False)
    after = [[("a", "DT"), ("walk", "NN")], [("they", "PRP"), ("walk", "VBP")]]
    tagger.train([[pair] for pair in TAGS.items()] * 25 + after * 25, nr_iter=8)
    name = "averaged_perceptron_tagger_eng"
    folder = root / "nltk_data" / "taggers" / name
    folder.mkdir(parents=True)
    for kind, value in zip(("weights", "tagdict", "classes"), tagger.encode_json_obj(), strict=True):
        (folder / f"{name}.{kind}.json").write_text(json.dumps(value), encoding="utf-8")
    return root / "nltk_data"
