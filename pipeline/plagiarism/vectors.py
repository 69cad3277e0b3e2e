"""Vectors of texts: mean-pooled states of a model's encoder, or TF-IDF weights of words. Both get unit length.

Both are fitted to the texts that they are made of, without knowing what was taken from where. From the states their
mean over all texts is subtracted: a masked language model's states share a large common part, which makes any two texts
similar (Mu and Viswanath 2018, arXiv 1702.01417). TF-IDF weighs words by their number of texts.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.models.masked_lm import MaskedLM, load_checked, one_model, released
from pipeline.models.precision import autocast
from pipeline.text.inputs import token_batches
from pipeline.text.ragged import encode
from pipeline.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MOST_TOKENS = 512
"""Longer texts are truncated, or at what the model reads."""


def encoder_states(folder: Path, texts: list[str], *, runtime: Runtime) -> tuple[NDArray[np.float32], int]:
    """Mean-pooled last states [N, H] of N texts by the model in `folder`, and its number of parameters.

    The model is gone from memory afterwards. Raises what `masked_lm.load_checked` and `tokenizer.load_tokenizer` raise.
    """
    import torch

    tokenizer = load_tokenizer(folder)
    with one_model():
        lm = MaskedLM(load_checked(folder).eval().to(runtime.device), runtime.device)
        with released(lm, weakref.ref(lm.model), folder=folder):
            encoded = encode(texts, None, tokenizer=tokenizer, max_tokens=min(MOST_TOKENS, lm.positions))
            pooled_NH = np.full((len(texts), lm.model.config.hidden_size), np.nan, np.float32)
            batches = token_batches(encoded.length_N, runtime.batch_tokens)
            with Progress(len(texts), unit="texts", label="encode") as progress, torch.inference_mode():
                for rows in batches:
                    ids_BL, attention_BL, _ = encoded.padded(rows, pad_id=tokenizer.special["pad"])
                    tensor_BL, used_BL = lm.tensors(ids_BL, attention_BL)
                    with autocast(runtime.device, runtime.dtype):
                        output = lm.model.base_model(input_ids=tensor_BL, attention_mask=used_BL)
                    used_BL1 = used_BL[:, :, None].float()
                    pooled_BH = (output.last_hidden_state.float() * used_BL1).sum(dim=1) / used_BL1.sum(dim=1)
                    pooled_NH[rows] = pooled_BH.cpu().numpy()
                    progress.advance(len(rows))
            parameters = lm.parameters
    return pooled_NH, parameters


def centred(vectors_NH: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors less their mean, at unit length; one that equals the mean stays 0."""
    less_NH = vectors_NH - vectors_NH.mean(axis=0, dtype=np.float64).astype(np.float32)
    unit_NH: NDArray[np.float32] = less_NH / np.maximum(np.linalg.norm(less_NH, axis=1, keepdims=True), 1e-12)
    return unit_NH


def word_vectors(texts: list[str]) -> csr_matrix[Any]:
    """TF-IDF vectors [N, words] of N texts, float32: sublinear counts, smoothed inverse document frequencies."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\w+", sublinear_tf=True, dtype=np.float32)
    vectors: csr_matrix[Any] = vectorizer.fit_transform(texts)
    return vectors
