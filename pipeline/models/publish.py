"""Publish a trained model as a plain Hugging Face folder, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.files import CONFIG_FILE, TOKENIZER_FILES, WEIGHT_FILES, copy_files, files_like
from pipeline.models.masked_lm import load_checked
from storage.errors import SourceError

if TYPE_CHECKING:
    from storage.work import WorkFolder

CARD_FILE = "README.md"
RECORD_FILE = "training.json"

FIRST = "4.57"
LOADED_BY_FIRST = (
    *("albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "fnet"),
    *("funnel", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet", "nystromformer", "rembert"),
    *("roberta", "roformer", "squeezebert", "xlm-roberta"),
)
"""Model types of which version 4.57.6 gives the logits of today's (docs/results/families.md), but for DeBERTa-v3's own
head, `legacy: false`."""

TOKENIZER_CONFIG = "tokenizer_config.json"
KNOWN_CLASS = "PreTrainedTokenizerFast"
"""Reads tokenizer.json as it is, in versions 4 and 5, which calls it `TokenizersBackend`."""

PROBE_TOKENS = 12
RELOAD_TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest; kinds of attention differ by about 1e-6."""


@contextmanager
def publishing(work: WorkFolder) -> Iterator[Path]:
    """An empty folder to write; it becomes the output of `work` when the block ends without an exception."""
    work.empty_content()
    yield work.content
    work.publish()


def save_model(model: Any, folder: Path, *, tokenizer: Path) -> None:
    """Write configuration and weights (safetensors) of a model, and the tokenizer's files of the folder `tokenizer`.

    model is on the CPU. The written model is loaded again and compared. Raises SourceError when it differs.
    """
    model.save_pretrained(folder)
    for path in files_like(folder, WEIGHT_FILES):
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    copy_files(tokenizer, folder, TOKENIZER_FILES)
    _name_known_class(folder / TOKENIZER_CONFIG)
    require_reloads(model, folder)


def require_reloads(model: Any, folder: Path) -> None:
    """Raise SourceError unless the model in `folder` has the weights and the logits of `model`.

    Logits are compared too, because a setting may be missing from the configuration, such as the id from which
    positions are counted. A second copy of the model is in memory meanwhile.
    """
    import torch

    again = load_checked(folder)
    kept, found = model.state_dict(), again.state_dict()
    differ = [name for name in kept if name not in found or not torch.equal(kept[name], found[name])]
    training = model.training
    model.eval()
    ids_BL = (torch.arange(2 * PROBE_TOKENS).reshape(2, -1) * 7 + 5) % int(model.config.vocab_size)
    if (pad := getattr(model.config, "pad_token_id", None)) is not None:
        ids_BL[1, PROBE_TOKENS // 2 :] = pad
    attention_BL = torch.ones_like(ids_BL)
    attention_BL[1, PROBE_TOKENS // 2 :] = 0
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        logits, other = (one(input_ids=ids_BL, attention_mask=attention_BL).logits for one in (model, again))
    model.train(training)
    shown = attention_BL.bool()
    if differ or not bool((logits - other)[shown].abs().max() <= RELOAD_TOLERANCE * logits[shown].abs().max()):
        what = f"{len(differ)} weights differ ({', '.join(differ[:3])})" if differ else "its logits differ"
        raise SourceError(
            f"{folder}: the {type(model).__name__} that was saved is another one when it is loaded: {what}. It "
            "cannot be published; choose another start"
        )


def _name_known_class(path: Path) -> None:
    """Name a tokenizer class that transformers 4 also has: version 5 saves a name that only it has."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"TokenizersBackend"', f'"{KNOWN_CLASS}"'), encoding="utf-8")


def write_record(folder: Path, record: dict[str, Any], *, card: str) -> None:
    """Write the training record, JSON, and the model card, Markdown, with the versions of transformers that load it."""
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card + _versions(folder), encoding="utf-8")


def _versions(folder: Path) -> str:
    if not (folder / CONFIG_FILE).is_file():
        return ""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    written = config["transformers_version"]
    first = FIRST if config["model_type"] in LOADED_BY_FIRST and config.get("legacy") is not False else written
    return f"\nWritten with transformers {written}; loads with {first} and later.\n"
