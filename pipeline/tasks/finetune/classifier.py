"""Fine-tune an encoder with a classification or regression head on texts or pairs of texts.

Every text is encoded once, and the tokens are kept in one array, 5 bytes a token. A batch holds examples of similar
length and is padded to the longest of them, so that few positions are padding.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.core.seeds import generator
from pipeline.models.masked_lm import MaskedLM, load_checked, one_model, released
from pipeline.models.optimizer import adamw, choose_attention, linear_schedule, update
from pipeline.models.precision import autocast
from pipeline.tasks.finetune.examples import Examples, epoch_batches, span_tokens
from pipeline.tasks.params import FinetuneParams
from pipeline.text.inputs import token_batches
from pipeline.text.ragged import Encoded, encode
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from storage.errors import DataError, ParamsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


DROPOUT = 0.1
"""Share of the pooled features that is dropped in training, as in BERT's own fine-tuning."""
GRADIENT_CLIP = 1.0
NORM_EPS = 1e-12
"""Added to the mean square of the pooled features, which may be far below 1."""
HEAD_SD = 0.02
"""Standard deviation of the head's first weights: BERT's initializer_range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """N encoded examples."""

    encoded: Encoded
    span_N22: NDArray[np.int64] | None
    """Tokens of the words, as `span_tokens` has them."""


def normalised(pooled_BH: Tensor) -> Tensor:
    """Each row x [H] scaled to a root mean square of 1: x sqrt(H) / |x| (Zhang and Sennrich 2019, arXiv 1910.07467).

    AdamW moves a weight by the learning rate at most, whatever the gradient. A head on small features can then say
    little, and on large ones much: encoders were compared at different rates. Those of 22 M parameters here have norms
    of 0.9 to 2.5, BERT's pooled output about sqrt(H).
    """
    import torch

    return torch.nn.functional.rms_norm(pooled_BH, pooled_BH.shape[1:], eps=NORM_EPS)


def mean_of(hidden_BLH: Tensor, used_BL: Tensor) -> Tensor:
    """Mean of the hidden states [B, H] over the tokens that are used."""
    used_BL1 = used_BL[:, :, None].to(hidden_BLH.dtype)
    return (hidden_BLH * used_BL1).sum(dim=1) / used_BL1.sum(dim=1)


class Classifier:
    """A fine-tuned encoder and its head; made by `finetuned`."""

    def __init__(
        self,
        encoder: Any,
        tokenizer: FastTokenizer,
        *,
        classes: int,
        words: int = 0,
        params: FinetuneParams,
        seed: int,
        runtime: Runtime,
    ) -> None:
        """The head reads the pooled vector, and beside it the vectors of `words` words of each example."""
        import torch

        # In eval mode throughout: the encoder's own dropout, where its configuration has any, stays off.
        self.encoder = encoder.to(runtime.device).eval()
        self.tokenizer, self.params, self.seed = tokenizer, params, seed
        self.device, self.dtype, self.batch_tokens = runtime.device, runtime.dtype, runtime.batch_tokens
        features = (1 + words) * encoder.config.hidden_size
        weight_CH = generator(seed, "finetune", "head").normal(0, HEAD_SD, (classes, features))
        self.head = torch.nn.Linear(weight_CH.shape[1], classes)
        self.head.weight.data.copy_(torch.from_numpy(weight_CH))
        self.head.bias.data.zero_()
        self.head.to(runtime.device)
        self.losses: list[float] = []
        """Mean training loss of each epoch, nats or squared standard deviations."""
        self._two_types = (
            getattr(encoder.config, "type_vocab_size", 0) >= 2
            and "token_type_ids" in inspect.signature(encoder.forward).parameters
        )
        self._shift, self._scale = 0.0, 1.0

    def scores(self, examples: Examples) -> NDArray[np.float32]:
        """[N, classes] logits, or values on the scale of the labels; in the order of the examples."""
        import torch

        inputs = self._inputs(examples)
        batches = token_batches(inputs.encoded.length_N, self.batch_tokens)
        with torch.inference_mode():
            found = [self._outputs(inputs, rows) for rows in batches]  # stays on the device until all is done
            whole = torch.cat(found).cpu().numpy() if found else np.zeros((0, self.head.out_features), np.float32)
        scores_NC = np.full_like(whole, np.nan)
        if batches:
            scores_NC[np.concatenate(batches)] = whole * self._scale + self._shift
        return scores_NC

    def learn(self, train: Examples) -> None:
        """Train encoder and head; the loss is read once an epoch, not every step."""
        import torch

        params = self.params
        inputs = self._inputs(train)
        length_N = inputs.encoded.length_N
        label_N = self._targets(train.label_N)
        optimizer = self._optimizer()
        epochs = params.epochs_of(len(train))
        steps = epochs * params.epoch_steps(len(train))
        step = 0
        with Progress(steps, unit="steps", label="fine-tune") as progress:
            for epoch in range(epochs):
                total = torch.zeros((), device=self.device)
                rng = generator(self.seed, "finetune", "epoch", epoch)
                for rows in epoch_batches(length_N, params.batch, rng=rng):
                    total += self._gradients(inputs, rows, label_N, rng)
                    rate = linear_schedule(step, steps, warmup=params.warmup, peak=params.learning_rate)
                    update(optimizer, self._parameters(), learning_rate=rate, gradient_clip=GRADIENT_CLIP)
                    step += 1
                    progress.advance(1)
                self.losses.append(float(total) / len(train))
                if not np.isfinite(self.losses[-1]):
                    raise ParamsError(
                        f"finetune.learning_rate: the loss is {self.losses[-1]} after epoch {epoch + 1} of "
                        f"{epochs} with {params.learning_rate}. Lower it"
                    )

    def release(self) -> None:
        """Drop the model; `scores` cannot be called afterwards."""
        del self.encoder, self.head

    def _inputs(self, examples: Examples) -> Inputs:
        how: dict[str, Any] = {"tokenizer": self.tokenizer, "max_tokens": self.params.max_tokens}
        return Inputs(encoded=encode(examples.first, examples.second, **how), span_N22=span_tokens(examples, **how))

    def _gradients(self, inputs: Inputs, rows: NDArray[np.int64], label_N: Tensor, rng: np.random.Generator) -> Tensor:
        """Gradients of a step's mean loss; returns the summed loss of its examples, on the device."""
        import torch

        total = torch.zeros((), device=self.device)
        for part in token_batches(inputs.encoded.length_N[rows], self.batch_tokens):
            output_BC = self._outputs(inputs, rows[part], rng=rng)
            label_B = label_N[self._tensor(rows[part])]
            if label_N.is_floating_point():
                loss = torch.nn.functional.mse_loss(output_BC[:, 0], label_B, reduction="sum")
            else:
                loss = torch.nn.functional.cross_entropy(output_BC, label_B, reduction="sum")
            # A sum divided by the count of the whole step: cutting a step otherwise changes no example's weight.
            (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _outputs(self, inputs: Inputs, rows_B: NDArray[np.int64], *, rng: np.random.Generator | None = None) -> Tensor:
        """[B, classes] in float32; with dropout drawn from `rng` in training."""
        import torch

        ids_BL, attention_BL, types_BL = (
            self._tensor(array) for array in inputs.encoded.padded(rows_B, pad_id=self.tokenizer.special["pad"])
        )
        given = {"input_ids": ids_BL, "attention_mask": attention_BL}
        if self._two_types:
            given["token_type_ids"] = types_BL
        with autocast(self.device, self.dtype):
            hidden_BLH = self.encoder(**given).last_hidden_state.float()
        pooled_BH = mean_of(hidden_BLH, attention_BL) if self.params.pooling == "mean" else hidden_BLH[:, 0]
        vectors = [pooled_BH]
        if inputs.span_N22 is not None:
            place_L = torch.arange(hidden_BLH.shape[1], device=self.device)
            vectors += [
                mean_of(hidden_BLH, (place_L >= span_B2[:, :1]) & (place_L < span_B2[:, 1:]))
                for span_B2 in self._tensor(inputs.span_N22[rows_B]).unbind(dim=1)
            ]
        pooled_BH = torch.cat([normalised(vector_BH) for vector_BH in vectors], dim=1)
        if rng is not None:
            kept_BH = rng.random(tuple(pooled_BH.shape), dtype=np.float32) >= DROPOUT
            pooled_BH = pooled_BH * self._tensor(kept_BH) / (1 - DROPOUT)
        output_BC: Tensor = self.head(pooled_BH)
        return output_BC

    def _targets(self, label_N: NDArray[Any]) -> Tensor:
        """Labels on the device: classes, or standardised values."""
        if not np.issubdtype(label_N.dtype, np.floating):
            return self._tensor(label_N.astype(np.int64))
        self._shift, self._scale = float(label_N.mean()), float(label_N.std()) or 1.0
        return self._tensor(((label_N - self._shift) / self._scale).astype(np.float32))

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [*self.encoder.parameters(), *self.head.parameters()]

    def _optimizer(self) -> torch.optim.Optimizer:
        return adamw(
            self._parameters(),
            learning_rate=self.params.learning_rate,
            weight_decay=self.params.weight_decay,
            betas=(0.9, 0.999),
        )

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        import torch

        tensor = torch.from_numpy(array)
        # From pinned memory a copy does not wait for the steps before it.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


@contextmanager
def finetuned(
    folder: Path,
    train: Examples,
    *,
    classes: int,
    params: FinetuneParams,
    seed: int,
    runtime: Runtime,
) -> Iterator[Classifier]:
    """Fine-tune the encoder in `folder` and yield it; it is gone from memory after the block.

    classes is 1 for regression; weights are float32, the runtime's dtype is what autocast computes in. Raises DataError
    without examples, ParamsError when max_tokens is more than the model takes or the loss diverges, and what
    `masked_lm.load_checked` and `tokenizer.load_tokenizer` raise.
    """
    if not len(train):
        raise DataError(f"{folder}: no examples to fine-tune on")
    regression = np.issubdtype(train.label_N.dtype, np.floating)
    if regression != (classes == 1) or (
        not regression and not 0 <= train.label_N.min() <= train.label_N.max() < classes
    ):
        raise ValueError(
            f"labels {train.label_N.dtype}, {train.label_N.min()} to {train.label_N.max()}: {classes} classes"
        )
    tokenizer = load_tokenizer(folder)
    with one_model():
        model = load_checked(folder)
        if (longest := MaskedLM(model, runtime.device).positions) < params.max_tokens:
            raise ParamsError(f"finetune.max_tokens: {folder} takes {longest} tokens at most, got {params.max_tokens}")
        choose_attention(model, device=runtime.device, dtype=runtime.dtype, tokens=params.max_tokens)
        classifier = Classifier(
            model.base_model,
            tokenizer,
            classes=classes,
            words=0 if train.span_N22 is None else train.span_N22.shape[1],
            params=params,
            seed=seed,
            runtime=runtime,
        )
        del model
        with released(classifier, weakref.ref(classifier.encoder), folder=folder):
            classifier.learn(train)
            yield classifier
