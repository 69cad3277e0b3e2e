"""A workplace for lexical students: a random model, an inventory, stores of words in context, and masked sequences.

Sentences are written as a person reads them, with each word that has senses as word/lemma/PART.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.lexical.inputs import LexicalInputs
from pipeline.lexical.params import LexicalParams
from pipeline.lexical.train import train_lexical
from pipeline.senses.instances import Instances, build_instances
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.params import SensesParams
from storage.documents import DocumentStore
from tests.helpers import stores as fakes
from tests.helpers.inventories import tiny_lexicon, tokenizer_with_quotes
from tests.helpers.stores import TinyStores, cpu_runtime

CPU = torch.device("cpu")
TEXT = {
    "made.d000": [
        "the old dog/dog/NOUN waits beside a bank/bank/NOUN",
        "a dog/dog/NOUN hides/hide/VERB on the bank/bank/NOUN and walks/walk/VERB slowly",
    ],
    "made.d001": ["a bank/bank/NOUN of apples", "it hides/hide/VERB behind the frozen pond/frozen_pond/NOUN"],
}
"""Nine words that the inventory knows, two of them with one sense only."""
GOLD = {
    "made.d000.s000.t000": "dog.animal",
    "made.d000.s000.t001": "bank.water",
    "made.d000.s001.t000": "dog.person dog.animal",
    "made.d000.s001.t001": "hide.away",
    "made.d001.s000.t000": "bank.money",
    "made.d001.s001.t000": "hide.skin",
    "made.d001.s001.t001": "pond.only",
}
"""A bank and what walks are not annotated."""
REHEARSAL = {"weight": 1.0, "step_tokens": 64, "loss": {"targets": 0.0, "labels": 1.0, "tail": "prior"}}


def write_set(
    folder: Path,
    text: Mapping[str, list[str]] = TEXT,
    gold: Mapping[str, str] = GOLD,
    *,
    name: str = "made",
) -> tuple[Path, Path]:
    """Write sentences by document and keys by instance in the layout of Raganato et al. 2017; returns both files."""
    lines = ['<corpus lang="en">']
    for document, sentences in text.items():
        lines.append(f'<text id="{document}">')
        for number, sentence in enumerate(sentences):
            identifier, count = f"{document}.s{number:03}", 0
            lines.append(f'<sentence id="{identifier}">')
            for word in sentence.split():
                shown, *more = word.split("/")
                if more:
                    lines.append(
                        f'<instance id="{identifier}.t{count:03}" lemma="{more[0]}" pos="{more[1]}">{shown}</instance>'
                    )
                    count += 1
                else:
                    lines.append(f"<wf>{shown}</wf>")
            lines.append("</sentence>")
        lines.append("</text>")
    folder.mkdir(parents=True, exist_ok=True)
    data, key = folder / f"{name}.data.xml", folder / f"{name}.gold.key.txt"
    data.write_text("\n".join([*lines, "</corpus>", ""]), encoding="utf-8")
    key.write_text("".join(f"{instance} {keys}\n" for instance, keys in gold.items()), encoding="utf-8")
    return data, key


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where things lie."""

    start: Path
    tokenizer: Path
    lexicon: Path
    senses: Path
    stores: TinyStores

    def entry(self, **changes: Any) -> LexicalParams:
        """An entry of `lexical`: 12 steps over all words unless changed; `training` is merged."""
        training = {
            "epochs": 8.0, "step_words": 8, "learning_rate": 2e-3, "warmup": 0.1, "weight_decay": 0.01,
            "gradient_clip": 1.0, "most_candidates": 3, "seed": 0,
        } | changes.pop("training", {})  # fmt: skip
        whole = {
            "start": str(self.start), "senses": ["examples", "story"], "objective": "bi_encoder", "gold": 1.0,
            "reading": {"context_tokens": 24, "gloss_tokens": 20, "examples": True}, "soft_labels": 0.0,
            "soft_labels_from": "data/senses", "targets": "data/masks", "training": training,
        } | changes  # fmt: skip
        if whole["objective"].endswith("_m"):
            whole.setdefault("language_model", REHEARSAL)
        return LexicalParams.model_validate(whole)

    def train(self, params: LexicalParams, out: Path, **changes: Any) -> dict[str, Any]:
        """Train a lexical student in the current folder; `documents` need not be those of the sequences."""
        where = {name: changes.pop(name) for name in ("sequences", "masks") if name in changes}
        corpus = self.stores.corpus(**where)
        if "documents" in changes:
            corpus = replace(corpus, documents=DocumentStore(changes.pop("documents")))
        given: dict[str, Any] = {
            "lexicon": self.lexicon,
            "senses": self.senses,
            "runtime": cpu_runtime(batch_tokens=4000, checkpoint_seconds=1e9),
        }
        return train_lexical(params, corpus, out=out, **given | changes)

    def inputs(self, params: LexicalParams, name: str = "one") -> LexicalInputs:
        """All that student `name` is made from."""
        return LexicalInputs.open(params, self.stores.corpus(), lexicon=self.lexicon, senses=self.senses, name=name)

    def open(self, *names: str) -> dict[str, Instances]:
        """Stores of words in context."""
        lexicon = Lexicon.open(self.lexicon)
        return {name: Instances.open(self.senses / name, lexicon=lexicon) for name in names}


def add_senses(
    workplace: Workplace,
    name: str,
    *,
    heldout: float = 0.0,
    text: Mapping[str, list[str]] = TEXT,
    gold: Mapping[str, str] = GOLD,
    out: Path | None = None,
) -> Path:
    """A store of annotated text under the workplace's senses, or at `out`."""
    out = workplace.senses / name if out is None else out
    root = workplace.senses.parent.parent
    with contextlib.chdir(root):
        write_set(root / "sets" / out.parent.name / name, text, gold, name=name)
        params = SensesParams(kind="raganato", path=f"sets/{out.parent.name}/{name}", heldout=heldout)
        build_instances(name, params, Lexicon.open(workplace.lexicon), out=out)
    return out


def make_workplace(folder: Path) -> Workplace:
    """Senses "examples" (of the inventory) and "story" (TEXT), nothing held out; masks over the start's vocabulary."""
    tokenizer = tokenizer_with_quotes(folder / "tokenizer")
    lexicon = tiny_lexicon(folder)
    workplace = Workplace(
        start=fakes.write_tiny_mlm(folder / "start", tokenizer),
        tokenizer=tokenizer,
        lexicon=folder / "lexicon",
        senses=folder / "data" / "senses",
        stores=fakes.tiny_masks(folder, tokenizer),
    )
    with contextlib.chdir(folder):
        params = SensesParams(kind="examples", path="data/lexicon", heldout=0.0)
        build_instances("examples", params, lexicon, out=workplace.senses / "examples")
    add_senses(workplace, "story")
    return workplace
