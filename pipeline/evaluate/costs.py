"""What using a model costs: parameters, bytes, FLOPs, time, memory and energy of forwards over sequences of one length.

A forward runs the encoder over every token and the masked-LM head at one masked position a sequence. The head's share
is then about 1 %, so the same numbers hold for tasks that use the encoder alone. Parameters, bytes and FLOPs depend on
the model only. The rest differs between runs and machines; the report names the hardware. Measure one model a process:
memory that an earlier model left allocated is not counted again.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hardware import Meter, PeakMemory, described, estimated_joules, idle_watts, open_meter
from pipeline.core.runtime import Runtime
from pipeline.core.seeds import generator
from pipeline.evaluate.params import CostParams
from pipeline.evaluate.suites import Metric, suite_report
from storage.errors import ParamsError, TeacherRefused

if TYPE_CHECKING:
    from pipeline.models.masked_lm import MaskedLM


WARM_UP = 3
"""Forwards with one sequence before anything is timed; one with a larger batch."""

BATCH_SECONDS = 1.5
"""Seconds that forwards of a larger batch are timed for, at least `LEAST_FORWARDS` and at most `forwards` of them."""

LEAST_FORWARDS = 3

METER_SECONDS = 1.0
"""Seconds that forwards are repeated for under an energy counter, which is updated every 0.1 s."""

GATED = ("modernbert",)
"""Families whose feed-forward layer has a third matrix, a gate."""

FAMILIES = ("bert", "mpnet", "roberta", "xlm-roberta", "camembert", "distilbert", *GATED)
"""Families for which the formula of `flops` was compared with counted operations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwards:
    """Timed forwards of one batch."""

    batch: int
    seconds_R: NDArray[np.float64]
    """Wall clock of each forward."""
    joules: float
    """Of a forward, without the idle machine's power."""


def measure_costs(params: CostParams, folder: Path, *, runtime: Runtime) -> dict[str, Any]:
    """The report of the suite `costs` for the model in `folder`.

    Numbers without a suffix are of one sequence at a time, those ending in `_batch_32` of 32 at once. Sets the number
    of threads of the process. Raises ParamsError when the model takes no sequence of this length, TeacherRefused when
    its FLOPs are not known, and what `masked_lm` raises.
    """
    import torch

    from pipeline.models.masked_lm import masked_lm

    device, dtype = runtime.device, runtime.dtype
    threads = params.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    _import_architecture(folder)
    memory = PeakMemory(device)
    with masked_lm(folder, device=device, dtype=dtype) as lm, torch.inference_mode():
        if params.sequence_tokens > lm.positions:
            raise ParamsError(
                f"costs.sequence_tokens: {folder} takes at most {lm.positions} tokens, got {params.sequence_tokens}"
            )
        metrics = {
            "parameters": lm.parameters,
            "embedding_parameters": embedding_parameters(lm),
            "weight_bytes": sum(path.stat().st_size for path in folder.glob("model*.safetensors")),
            "flops": flops(lm.model.config, tokens=params.sequence_tokens, head_positions=1),
            "flops_head_everywhere": flops(
                lm.model.config, tokens=params.sequence_tokens, head_positions=params.sequence_tokens
            ),
        }
        meter = open_meter(device)
        idle = 0.0 if meter is None else idle_watts(meter)
        timed = [_forwards(lm, params, batch=batch, meter=meter, idle=idle) for batch in params.batches]
    metrics["peak_memory_bytes"] = memory.added()
    found = {name: Metric(value=value) for name, value in metrics.items()}
    for forwards in timed:
        found |= _speed(forwards, tokens=params.sequence_tokens)
    return suite_report(
        "costs",
        folder,
        found,
        headline="latency_ms",
        energy_source="estimated" if meter is None else meter.source,
        sequence_tokens=params.sequence_tokens,
        run=described(device, dtype, threads=threads),
    )


def flops(config: Any, *, tokens: int, head_positions: int) -> float:
    """Floating-point operations of one sequence of L tokens, a multiplication and an addition counting as two.

    A layer of width H and inner width I multiplies by four H x H matrices and by two (gated: three) H x I matrices at
    each token, 8 L H^2 + 4 L H I, and forms scores and their mixture over all pairs, 4 L^2 H, also where it attends to
    a window only (Kaplan et al. 2020, arXiv 2001.08361, table 1). The head multiplies by an H x H matrix and by the
    V x H vocabulary at each of its positions. Norms, activations, softmax and look-ups, about 1 %, are left out.
    Raises TeacherRefused for an architecture that was never compared with counted operations.
    """
    if config.model_type not in FAMILIES:
        raise TeacherRefused(f"{config.model_type}: its FLOPs are not known; known: {', '.join(FAMILIES)}")
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inner = int(config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size)
    matrices = 3 if config.model_type in GATED else 2
    layer = 8 * tokens * width**2 + 4 * tokens**2 * width + 2 * matrices * tokens * width * inner
    head = 2 * head_positions * (width**2 + width * int(config.vocab_size))
    return float(layers * layer + head)


def embedding_parameters(lm: MaskedLM) -> int:
    """Numbers in tables that are looked up (tokens, positions, types), those that the head shares included."""
    import torch

    tables = [module for module in lm.model.modules() if isinstance(module, torch.nn.Embedding)]
    return sum({id(table.weight): table.weight.numel() for table in tables}.values())


def median_interval(values_R: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median and its 95 % interval between two order statistics (Conover 1999, section 3.2).

    The median of any continuous distribution lies between the k-th smallest and the k-th largest of R values with
    probability 1 - 2 P(Binomial(R, 1/2) < k); k is the largest that leaves 95 %. Below six values no k does, and
    the interval is the range.
    """
    ordered_R = np.sort(values_R)
    count = len(ordered_R)
    below, k = 0.0, 0
    while True:
        below += math.comb(count, k) / 2**count
        if 2 * below > 0.05:
            break
        k += 1
    k = max(k, 1)
    return float(np.median(ordered_R)), float(ordered_R[k - 1]), float(ordered_R[count - k])


def _import_architecture(folder: Path) -> None:
    """Import the code of the model, some 100 MB, before memory is measured; a wrong folder is refused when it loads."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    with contextlib.suppress(OSError, ValueError, KeyError):
        MODEL_FOR_MASKED_LM_MAPPING[
            type(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        ]


def _forwards(lm: MaskedLM, params: CostParams, *, batch: int, meter: Meter | None, idle: float) -> Forwards:
    """Time forwards over random tokens: the cost does not depend on the text."""
    ids_BL = generator(0, "costs", batch).integers(0, lm.vocabulary, (batch, params.sequence_tokens))
    row_B = np.arange(batch)
    inputs = lm.tensors(ids_BL, np.ones_like(ids_BL), row_B, np.full_like(row_B, params.sequence_tokens // 2))

    def once() -> None:
        lm.logits(*inputs)
        if lm.device.type == "cuda":
            import torch

            torch.cuda.synchronize(lm.device)

    for _ in range(WARM_UP if batch == 1 else 1):
        once()
    cores_began = time.process_time()
    seconds_R = _timed(once, most=params.forwards, seconds=math.inf if batch == 1 else BATCH_SECONDS)
    core_seconds = time.process_time() - cores_began
    if meter is None:
        joules = estimated_joules(lm.device, seconds=float(seconds_R.sum()), core_seconds=core_seconds)
        return Forwards(batch=batch, seconds_R=seconds_R, joules=joules / len(seconds_R))
    return Forwards(batch=batch, seconds_R=seconds_R, joules=metered_joules(once, meter, idle=idle))


def _timed(once: Callable[[], None], *, most: int, seconds: float) -> NDArray[np.float64]:
    """Wall clock of each forward, until `most` are done or, after `LEAST_FORWARDS`, `seconds` are over."""
    times: list[float] = []
    while len(times) < most and (len(times) < LEAST_FORWARDS or sum(times) < seconds):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return np.array(times)


def metered_joules(
    once: Callable[[], None], meter: Meter, *, idle: float, clock: Callable[[], float] = time.monotonic
) -> float:
    """Joules of one forward beyond idle power in watts, over forwards that last `METER_SECONDS`; at least 0."""
    began, at, count = clock(), meter.joules(), 0
    while clock() - began < METER_SECONDS:
        once()
        count += 1
    drawn = meter.joules() - at
    return max(0.0, drawn - idle * (clock() - began)) / count


def _speed(forwards: Forwards, *, tokens: int) -> dict[str, Metric]:
    """Time, throughput and energy of one batch size, as metrics."""
    suffix = "" if forwards.batch == 1 else f"_batch_{forwards.batch}"
    count = len(forwards.seconds_R)
    middle, low, high = median_interval(forwards.seconds_R)

    def rate(items: int) -> Metric:
        return Metric(value=items / middle, low=items / high, high=items / low, n=count)

    return {
        f"latency_ms{suffix}": Metric(value=1e3 * middle, low=1e3 * low, high=1e3 * high, n=count),
        f"sequences_per_second{suffix}": rate(forwards.batch),
        f"tokens_per_second{suffix}": rate(forwards.batch * tokens),
        f"joules_per_1000_sequences{suffix}": Metric(value=1e3 * forwards.joules / forwards.batch),
    }
