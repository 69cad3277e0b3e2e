"""How much of the machine works: useful FLOPs a second as a share of the matrix products' rate, and where time goes.

Useful FLOPs are those of `pipeline.evaluate.costs.flops` for the tokens of the text, without padding, and for the
masked positions; three times as many in training. The rate is that of one product of the model's shape in the number
format, with the threads, and in the run, that are judged. A profiler says what the rest of the time is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, Unavailable, require, seconds

if TYPE_CHECKING:
    from pipeline.lexical.inputs import LexicalInputs
    from pipeline.lexical.trainer import LexicalTrainer
    from pipeline.text.ragged import Int

ROWS_OF_A_PRODUCT = {"cpu": 2048, "cuda": 32768}
PRODUCTS = 8
"""A timing of the rate."""

STEPS = {"cpu": 8, "cuda": 16}
"""Training steps a timing."""

LEXICAL_STEPS = {"cpu": 2, "cuda": 8}
"""Steps of lexical training a timing; on a CPU one takes seconds."""

KINDS: Mapping[str, Sequence[str]] = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "optimiser": ("_fused_adamw_", "linalg_vector_norm", "Optimizer.step#AdamW.step"),
    "softmax, norms, activations": ("_softmax", "native_layer_norm", "gelu", "native_layer_norm_backward",
        "_softmax_backward_data", "gelu_backward", "tanh", "_scaled_dot_product_flash_attention_for_cpu"),
    "copies between formats and places": ("copy_", "_to_copy", "fill_", "cat", "index_select"),
    "sums and products of elements": ("add", "add_", "mul", "mul_", "sum", "sub_", "addcmul_", "div", "where"),
    "loss": ("_SoftCrossEntropy", "gather", "scatter_", "scatter_add_", "amax", "linalg_vecdot"),
}  # fmt: skip
"""Operators by what they do; all others, and Python between them, are the rest."""


def product_rate(machine: Machine, config: Any, dtype: Any) -> float:
    """FLOPs a second of the product of a layer's widest matrix; the best of several, as it is the limit."""
    import torch

    rows, width = ROWS_OF_A_PRODUCT[machine.kind], int(config.hidden_size)
    inner = int(config.intermediate_size)
    left = torch.randn(rows, width, dtype=dtype, device=machine.kind)
    right = torch.randn(inner, width, dtype=dtype, device=machine.kind)

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.nn.functional.linear(left, right)

    with torch.inference_mode():
        took = min(seconds(products, machine=machine) for _ in range(RUNS))
    return 2 * rows * width * inner * PRODUCTS / took


def where_time_goes(work: Callable[[], object]) -> dict[str, float]:
    """Shares of a profiled run by `KINDS`, "rest" included; they add up to 1."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    kind_of = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    found: Counter[str] = Counter()
    for event in profiled.key_averages():
        found[kind_of.get(event.key.removeprefix("aten::"), "rest")] += event.self_cpu_time_total
    return {kind: round(found[kind] / found.total(), 3) for kind in [*KINDS, "rest"]}


def forward_flops(config: Any, token_counts: Iterable[int], *, head_positions: int = 0) -> float:
    """Useful FLOPs of a forward of sequences of so many tokens, with the head at some positions of them in all."""
    from pipeline.evaluate.costs import flops

    sequences = Counter(token_counts)
    encoder = sum(count * flops(config, tokens=tokens, head_positions=0) for tokens, count in sequences.items())
    return encoder + flops(config, tokens=0, head_positions=head_positions)


def share(machine: Machine, work: Callable[[], float], *, config: Any, dtype: Any, what: str) -> Measured:
    """The share in each run; `work` returns the useful FLOPs that it did."""
    import torch

    done: list[float] = []
    work()
    values, rates = [], []
    for _ in range(RUNS):
        rates.append(product_rate(machine, config, dtype))
        took = seconds(lambda: done.append(work()), machine=machine)
        values.append(done[-1] / took / rates[-1])
    units = torch.cpu.get_capabilities().get("amx_bf16", False) if machine.kind == "cpu" else True
    number = str(dtype).removeprefix("torch.")
    note = (
        f"{what}; {number}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        f"{'with' if units else 'without'} bfloat16 matrix units, products at {max(rates) / 1e9:,.0f} GFLOP/s"
    )
    details = {} if machine.kind == "cuda" else {"time": where_time_goes(work)}
    return Measured(values, note=note, details=details)


def measure_teach(machine: Machine, folder: Path) -> Measured:
    """A teacher's forwards, with the head, over a shard of the default run's text."""
    from benchmarks.speed.teach import MODEL, fast_type, forward, load_bare, shard_inputs, small_stores, tensors

    model, dtype = require(MODEL, run="make repro"), fast_type(machine)
    lm = load_bare(model, machine, dtype)
    (first, *_) = shard_inputs(model, lm, small_stores(folder, machine.kind), machine)
    config = lm.model.config
    useful = sum(
        forward_flops(config, one.attention_BL.sum(axis=1).tolist(), head_positions=len(one.row_Q)) for one in first
    )
    batches = tensors(lm, first)

    def work() -> float:
        forward(lm, batches, head=True)
        return useful

    return share(machine, work, config=config, dtype=dtype, what=MODEL)


def measure_train(machine: Machine, _folder: Path) -> Measured:
    """Steps of the default run: its student, its fused targets, its tokens a step."""
    from benchmarks.speed.train import MODEL, STEP_SEQUENCES, default_stores, learner

    model, data = default_stores()
    ours = learner(
        machine.kind,
        targets=str(data / "targets/confident"),
        model=model,
        data=data,
        sequences=STEP_SEQUENCES[machine.kind],
    )
    view, config = ours.window.view, ours.trainer.lm.model.config
    steps, useful = STEPS[machine.kind], 0.0
    for examples in ours.examples[:steps]:
        positions = int((view.start_G1[examples + 1] - view.start_G1[examples]).sum())
        useful += 3 * forward_flops(config, view.lengths_G()[examples].tolist(), head_positions=positions)
    dtype = next(ours.trainer.lm.model.parameters()).dtype
    del ours.examples[steps:]  # the same steps again and again: their FLOPs are counted

    def work() -> float:
        ours.steps(steps)
        return useful

    what = f"{MODEL}, {STEP_SEQUENCES[machine.kind]} sequences a step"
    return share(machine, work, config=config, dtype=dtype, what=what)


def measure_lexical(machine: Machine, _folder: Path) -> Measured:
    """Steps of lexical training of the default run: words with the glosses of their senses, and masked sequences."""
    from benchmarks.speed.train import runtime
    from pipeline.core.config import section
    from pipeline.lexical.inputs import LexicalInputs
    from pipeline.lexical.params import LexicalParams
    from pipeline.lexical.train import new_trainer
    from pipeline.lexical.trainer import plan_steps
    from pipeline.text.corpus_view import MaskedCorpus

    params = section(require("params.yaml", run="git checkout params.yaml"), "lexical.lexical", LexicalParams)
    for needed in (params.start, "data/senses/examples", "data/masks"):
        require(needed, run="dvc repro lexical@lexical")
    corpus = MaskedCorpus.open(Path("data/documents"), Path("data/sequences"), Path("data/masks"))
    inputs = LexicalInputs.open(
        params, corpus, lexicon=Path("data/lexicon"), senses=Path("data/senses"), name="lexical"
    )
    chosen = runtime(machine.kind, "auto")
    trainer = new_trainer(params, inputs, runtime=chosen)
    trainer.model.train()
    count = LEXICAL_STEPS[machine.kind]
    if (1 + RUNS + 1) * count > trainer.steps:  # a first run, those that are timed, and that of the profiler
        raise Unavailable(f"lexical training has {trainer.steps} steps. Set senses.examples.share to 0.08 or more")
    words = plan_steps(
        trainer.data.batch_builder.view, trainer.data.instance_I, step_words=params.training.step_words,
        seed=params.training.seed,
    )  # fmt: skip
    steps = list(islice(words, trainer.steps))
    useful = lexical_flops(params, inputs, trainer, [instance_I for _, instance_I in steps])
    done = 0

    def work() -> float:
        nonlocal done
        numbers = range(done, done + count)
        for number in numbers:
            trainer.step(number, steps[number])
        done += count
        return sum(useful[number] for number in numbers)

    what = f"{params.start}, {params.objective}, {params.training.step_words} words a step"
    return share(machine, work, config=trainer.model.lm.config, dtype=chosen.dtype, what=what)


def lexical_flops(params: Any, inputs: LexicalInputs, trainer: LexicalTrainer, words: Sequence[Int]) -> list[float]:
    """Useful FLOPs of each step: of its windows, its glosses and its masked sequences; the sense head is left out."""
    from pipeline.lexical.batches import BiBatch, micro_batches
    from pipeline.lexical.trainer import kept_candidates
    from pipeline.train.data import WINDOW_PREDICTIONS, plan_steps
    from pipeline.train.train import open_training_data

    config, builder = trainer.model.lm.config, trainer.data.batch_builder
    kept = kept_candidates(builder.view, most=params.training.most_candidates, seed=params.training.seed, epoch=0)
    assert inputs.rehearsal is not None and params.language_model is not None
    data = open_training_data(inputs.rehearsal.corpus, inputs.rehearsal.targets)
    masked = plan_steps(
        data, step_tokens=params.language_model.step_tokens, seed=params.training.seed,
        window_shards=max(1, WINDOW_PREDICTIONS // data.text.plan.shard_rows), done=0,
    )  # fmt: skip
    found = []
    for instance_I, step in zip(words, masked, strict=False):
        useful = forward_flops(
            config, step.window.view.lengths_G()[step.example_B].tolist(), head_positions=step.labels
        )
        for rows in micro_batches(builder, instance_I, batch_tokens=trainer.batch_tokens):
            batch = builder.batch(rows, kept=kept)
            assert isinstance(batch, BiBatch), f"{params.objective}: a bi-encoder is wanted"
            useful += forward_flops(config, [*batch.windows.lengths().tolist(), *batch.glosses.lengths().tolist()])
        found.append(3 * useful)
    return found


def measure_finetune(machine: Machine, _folder: Path) -> Measured:
    """Steps of the detectors of paraphrases of the default run, tokenising included."""
    from benchmarks.speed.train import runtime
    from pipeline.core.config import section
    from pipeline.tasks.finetune.classifier import finetuned
    from pipeline.tasks.finetune.examples import Examples
    from pipeline.tasks.params import ParaphraseParams
    from pipeline.tasks.paraphrase_data import read_sets
    from pipeline.text.ragged import encode

    params = section(require("params.yaml", run="git checkout params.yaml"), "paraphrase", ParaphraseParams).finetune
    params = params.model_copy(update={"epochs": 1, "least_steps": 0})
    model = require("models/fused", run="dvc repro train@fused")
    (rewritten, *_) = read_sets("rewritten", require("data/rewrite/prose", run="dvc repro rewrite@prose"))
    assert rewritten.train is not None
    texts = rewritten.train.some(STEPS[machine.kind] * params.batch)
    examples = Examples(first=texts.first, second=texts.second, label_N=texts.label_N)
    chosen = runtime(machine.kind, "auto")
    with finetuned(model, examples, classes=2, params=params, seed=0, runtime=chosen) as classifier:
        config = classifier.encoder.config
        encoded = encode(examples.first, examples.second, tokenizer=classifier.tokenizer, max_tokens=params.max_tokens)
        useful = 3 * forward_flops(config, encoded.length_N.tolist())

        def work() -> float:
            classifier.learn(examples)
            return useful

        what = f"models/fused, {params.batch} texts a step, {encoded.length_N.mean():.0f} tokens a text"
        return share(machine, work, config=config, dtype=chosen.dtype, what=what)


ROWS = (
    Row(
        name="share-teach", goal=0.6, unit="useful FLOPs a second / matrix products alone", better="higher",
        device="any", measure=measure_teach,
    ),
    Row(
        name="share-train", goal=0.4, unit="useful FLOPs a second / matrix products alone", better="higher",
        device="any", measure=measure_train,
    ),
    Row(
        name="share-lexical", goal=0.4, unit="useful FLOPs a second / matrix products alone", better="higher",
        device="any", measure=measure_lexical,
    ),
    Row(
        name="share-finetune", goal=0.4, unit="useful FLOPs a second / matrix products alone", better="higher",
        device="any", measure=measure_finetune,
    ),
)  # fmt: skip
