"""Every family through the pipeline, as a teacher, as a start and as a lexical student, on a text of two hundred lines.

Models have random weights from their own initialisers, and some steps of training where a teacher must know more than
frequencies. Each is written as a published folder: configuration, safetensors, tokenizer, and no special token named
where the hub's folders name none.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.families.configs import FAMILIES
from benchmarks.families.texts import TEXTS, write_senses, write_texts
from benchmarks.families.tokenizers import write_tokenizer
from pipeline.core.runtime import Runtime
from pipeline.text.corpus_view import MaskedCorpus
from storage.errors import DistillError

Role = Literal["teacher", "start", "lexical"]
STEPS = 200
CPU = torch.device("cpu")
RUNTIME = Runtime(device=CPU, dtype=torch.float32, batch_tokens=2000, checkpoint_seconds=1e9)
TOLERANCE = 1e-4
"""Largest difference of a logit from the model's own, as a share of the largest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a family in a role."""

    family: str
    role: Role
    outcome: Literal["ok", "refused", "crash"]
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Text, masks and senses that all families share; the reference vocabulary is a WordPiece one."""

    folder: Path
    tokenizer: Path

    @staticmethod
    def make(folder: Path) -> World:
        """Ingest, tokenize and mask the text, and build the senses, in `folder`."""
        from pipeline.senses.instances import build_instances
        from pipeline.senses.lexicon import Lexicon, build_lexicon
        from pipeline.senses.params import LexiconParams, SensesParams
        from pipeline.text.documents.corpus import assemble
        from pipeline.text.documents.ingest import ingest
        from pipeline.text.mask import mask
        from pipeline.text.params import CorpusParams, InputParams, MaskParams, TokenizeParams
        from pipeline.text.tokenize import tokenize

        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder / "reference", FAMILIES["bert"], TEXTS)
        with contextlib.chdir(folder):
            text = InputParams(kind="jsonl", path=str(write_texts(Path("texts.jsonl"))), licence="made for this")
            ingest("animals", text, Path("data/text/animals"))
            split = CorpusParams(share=1.0, calibration=0.35, heldout=0.25)
            assemble(Path("data/text"), {"animals": text}, split, Path("data/documents"))
            documents, sequences = Path("data/documents"), Path("data/sequences")
            tokenize(TokenizeParams(tokenizer="reference", sequence_tokens=32), documents, out=sequences)
            params = MaskParams(rate=0.3, copies=2, seed=0, shard_rows=512)
            mask(params, documents, sequences=sequences, out=Path("data/masks"))
            inventory = LexiconParams(kind="jsonl", path=str(write_senses(Path("senses.jsonl"))))
            build_lexicon(inventory, out=Path("data/lexicon"))
            examples = SensesParams(kind="examples", path="data/lexicon", heldout=0.0)
            build_instances("examples", examples, Lexicon.open(Path("data/lexicon")), out=Path("data/senses/examples"))
        return World(folder=folder, tokenizer=folder / "reference")

    def corpus(self) -> MaskedCorpus:
        """The stores, opened."""
        data = self.folder / "data"
        return MaskedCorpus.open(data / "documents", data / "sequences", data / "masks")


def publish(folder: Path, name: str, *, steps: int = STEPS) -> Path:
    """Write a published folder of the family: tokenizer, and a model trained for so many steps on the text."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForMaskedLM

    family = FAMILIES[name]
    special = write_tokenizer(folder, family, TEXTS)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = family.config(vocabulary=backend.get_vocab_size(), special=special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config)  # type: ignore[no-untyped-call]
        if steps and family.refused is None:
            _learn(model, backend, special, steps)
    model.save_pretrained(folder)
    return folder


def _learn(model: Any, backend: Any, special: dict[str, int], steps: int) -> None:
    rows = [encoding.ids for encoding in backend.encode_batch(list(TEXTS))]
    groups, width = [rows[first::4] for first in range(4)], max(map(len, rows))
    mixes_padding = "attention_mask" not in inspect.signature(type(model.base_model).forward).parameters
    if mixes_padding:
        # FNet mixes padding into the tokens, so it learns, as it is read, from rows of one length.
        groups = [[row for row in rows if len(row) == length] for length in sorted({len(row) for row in rows})]
        steps *= 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.eval()  # gradients flow; dropout would only slow a model that is to memorise a text
    for step in range(steps):
        batch = groups[step % len(groups)]
        width = len(batch[0]) if mixes_padding else width
        ids = torch.tensor([row + [special["pad"]] * (width - len(row)) for row in batch])
        inside = torch.tensor([[0 < i < len(row) - 1 for i in range(width)] for row in batch])
        hidden = inside & (torch.rand(inside.shape) < 0.25)
        if not hidden.any():
            continue
        shown = ids.masked_fill(hidden, special["mask"])
        logits = model(input_ids=shown, attention_mask=(ids != special["pad"]).long()).logits
        loss = torch.nn.functional.cross_entropy(logits[hidden], ids[hidden])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def as_teacher(world: World, folder: Path, out: Path) -> None:
    """Teach and fuse; the logits asked for are the model's own."""
    from pipeline.fuse.fuse import fuse
    from pipeline.fuse.params import FusionParams
    from pipeline.teach.params import TeacherParams
    from pipeline.teach.teach import teach
    from pipeline.text.corpus_view import MaskedSequences

    data = world.folder / "data"
    params = TeacherParams.model_validate({
        "model": str(folder), "keep": {"form": "topk", "k": 8}, "tail": {"rank": 4, "step": 0.4},
        "temperatures": [1.0], "seed": 0,
    })  # fmt: skip
    teach(params, world.corpus(), out=out / "logits" / "one", runtime=RUNTIME, tokenizer=world.tokenizer)
    fusion = FusionParams(
        teachers=["one"], weighting="uniform", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=8
    )
    fuse(
        fusion, MaskedSequences.open_pair(data / "sequences", data / "masks"), logits=out / "logits",
        out=out / "targets" / "one", declared=["one"],
    )  # fmt: skip
    _require_own_logits(folder)


def as_start(world: World, folder: Path, out: Path, *, targets: Path) -> None:
    """Train a student of the reference vocabulary from this start, publish it, load it again and evaluate it."""
    from pipeline.evaluate.evaluate import evaluate_student
    from pipeline.evaluate.heldout import open_heldout
    from pipeline.evaluate.params import EvaluateParams
    from pipeline.train.params import LossParams, StudentParams, TrainingParams
    from pipeline.train.train import train

    student = StudentParams.model_validate({
        "start": str(folder), "targets": str(targets),
        "loss": LossParams(targets=1.0, labels=1.0, tail="prior", anneal=0.0).model_dump(),
    })  # fmt: skip
    params = TrainingParams(
        steps=3, step_tokens=200, learning_rate=1e-3, warmup=0.1, weight_decay=0.01, gradient_clip=1.0, evaluations=1,
        seed=0,
    )  # fmt: skip
    train(student, params, world.corpus(), tokenizer=world.tokenizer, out=out / "models" / "one", runtime=RUNTIME)
    evaluation = EvaluateParams(against=str(targets), bootstrap=5, seed=0)
    evaluate_student(evaluation, open_heldout(world.corpus()), model=out / "models" / "one", runtime=RUNTIME)
    _require_own_logits(out / "models" / "one")


def as_lexical(world: World, folder: Path, out: Path) -> None:
    """Train a gloss classifier on this encoder and load what was published."""
    from pipeline.lexical.params import LexicalParams
    from pipeline.lexical.train import train_lexical

    data = world.folder / "data"
    params = LexicalParams.model_validate({
        "start": str(folder), "senses": ["examples"], "objective": "bi_encoder", "gold": 1.0,
        "reading": {"context_tokens": 24, "gloss_tokens": 20, "examples": True}, "soft_labels": 0.0,
        "soft_labels_from": "data/senses", "targets": "data/masks",
        "training": {"epochs": 1.0, "step_words": 8, "learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 0.01,
                     "gradient_clip": 1.0, "most_candidates": 3, "seed": 0},
    })  # fmt: skip
    train_lexical(
        params, world.corpus(), lexicon=data / "lexicon", senses=data / "senses", out=out / "models" / "senses",
        runtime=RUNTIME,
    )  # fmt: skip
    _require_own_logits(out / "models" / "senses")


def _require_own_logits(folder: Path) -> None:
    """Raise AssertionError unless what the pipeline reads of the model in `folder` is what its own forward gives."""
    from transformers import AutoModelForMaskedLM

    from pipeline.models.masked_lm import masked_lm
    from pipeline.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    rows = [encoding.ids for encoding in tokenizer.backend.encode_batch(list(TEXTS[:3]))]
    width = max(map(len, rows))
    ids_BL = torch.tensor([row + [tokenizer.special["pad"]] * (width - len(row)) for row in rows])
    attention_BL = torch.tensor([[int(i < len(row)) for i in range(width)] for row in rows])
    row_Q, column_Q = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 3, 1, 5])
    with torch.inference_mode():
        own = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        with masked_lm(folder, device=CPU, dtype=torch.float32) as lm:
            got_QV = lm.logits(ids_BL, attention_BL, row_Q, column_Q)
            mixes_padding = lm.mixes_padding
        if mixes_padding:
            alone = [own(input_ids=torch.tensor([row])).logits[0] for row in rows]
            pairs = zip(row_Q.tolist(), column_Q.tolist(), strict=True)
            expected_QV = torch.stack([alone[row][column] for row, column in pairs])
        else:
            expected_QV = own(input_ids=ids_BL, attention_mask=attention_BL).logits[row_Q, column_Q]
    worst = float((got_QV - expected_QV).abs().max() / expected_QV.abs().max())
    assert worst <= TOLERANCE, f"logits differ from the model's own by {worst:.1e} of the largest"


def make_targets(world: World, out: Path) -> Path:
    """Fused targets of a BERT teacher, which all starts learn from."""
    folder = publish(out / "published", "bert")
    with contextlib.chdir(out):
        as_teacher(world, folder, out)
    return out / "targets" / "one"


def run_family(world: World, name: str, out: Path, *, roles: tuple[Role, ...], targets: Path) -> list[Outcome]:
    """Take a family through the roles; `targets` are the fused targets that starts learn from."""
    folder = publish(out / "published", name)
    run: dict[Role, Callable[[], None]] = {
        "teacher": lambda: as_teacher(world, folder, out),
        "start": lambda: as_start(world, folder, out, targets=targets),
        "lexical": lambda: as_lexical(world, folder, out),
    }
    outcomes = []
    with contextlib.chdir(out):
        for role in roles:
            try:
                run[role]()
                outcomes.append(Outcome(family=name, role=role, outcome="ok"))
            except DistillError as refusal:
                outcomes.append(Outcome(family=name, role=role, outcome="refused", why=str(refusal)))
            except Exception as error:  # whatever else is raised is what the matrix is there to find
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                outcomes.append(Outcome(family=name, role=role, outcome="crash", why=why))
    return outcomes
