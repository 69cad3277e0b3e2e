"""Whether saved students load in an installed transformers, and say there what they said where they were saved.

A file of its own, for another environment, which has torch and transformers and nothing of this project:

    PYTHON -P benchmarks/families/loads.py FOLDER...

Prints a JSON line a folder: `version`, `folder`, `difference` (largest one of a logit, as a share of the largest
logit), `tokens` and `special` (whether they are the same), `fills` (whether the fill-mask pipeline gives the same
token), and `why` not.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

EXPECTED = "expected.json"
"""In each folder: `texts`, of which the last has one mask; `ids`, `attention`, `logits` and `special` ids; and `top`,
the most likely token at that mask."""


def loads(folder: Path) -> dict[str, Any]:
    """The line of one folder."""
    expected = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    found: dict[str, Any] = {"version": transformers.__version__, "folder": str(folder)}
    try:
        model: Any = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        inputs = {"input_ids": torch.tensor(expected["ids"]), "attention_mask": torch.tensor(expected["attention"])}
        read = inspect.signature(type(model).forward).parameters
        with torch.inference_mode():
            logits = model(**{name: value for name, value in inputs.items() if name in read}).logits
        own, used = torch.tensor(expected["logits"]), inputs["attention_mask"].bool()
        found["difference"] = float((logits - own)[used].abs().max() / own[used].abs().max())
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        rows = [[i for i, used in zip(*row, strict=True) if used] for row in zip(*inputs.values(), strict=True)]
        cut = [tokenizer(text)["input_ids"] for text in expected["texts"]]
        found["tokens"] = cut == [[int(i) for i in row] for row in rows]
        found["special"] = all(
            getattr(tokenizer, f"{role}_token_id") == number for role, number in expected["special"].items()
        )
        fill: Any = transformers.pipeline("fill-mask", model=str(folder), device="cpu")
        found["fills"] = fill(expected["texts"][-1])[0]["token"] == expected["top"]
    except Exception as error:  # whatever a version raises is what it has to say
        found["why"] = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    return found


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        print(json.dumps(loads(Path(name))), flush=True)
