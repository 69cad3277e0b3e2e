"""Pages to a masked corpus, by the stages of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.text.corpus_view import MaskedCorpus
from pipeline.text.documents.corpus import assemble
from pipeline.text.documents.ingest import ingest
from pipeline.text.mask import mask
from pipeline.text.params import CorpusParams, InputParams, MaskParams, TokenizeParams
from pipeline.text.tokenize import tokenize
from storage.work import Workspace

MASKED = MaskParams(rate=0.15, copies=1, seed=0, shard_rows=2048)
TOKENS = 128


def masked_corpus(pages: Sequence[str], tokenizer: Path, split: CorpusParams, scratch: Path) -> MaskedCorpus:
    """The pages as documents, split, cut by `tokenizer` into windows of `TOKENS` and masked; all in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    source = scratch / "pages.jsonl"
    source.write_text("".join(json.dumps({"id": f"p{i}", "text": page}) + "\n" for i, page in enumerate(pages)))
    workspace = Workspace(scratch / ".work")
    text = InputParams(kind="jsonl", path=str(source), licence="that of the pages")
    ingest("pages", text, scratch / "text" / "pages", workspace=workspace)
    assemble(scratch / "text", {"pages": text}, split, scratch / "documents", workspace=workspace)
    params = TokenizeParams(tokenizer=str(tokenizer), sequence_tokens=TOKENS)
    tokenize(params, scratch / "documents", out=scratch / "sequences", workspace=workspace)
    mask(MASKED, scratch / "documents", sequences=scratch / "sequences", out=scratch / "masks", workspace=workspace)
    return MaskedCorpus.open(scratch / "documents", scratch / "sequences", scratch / "masks")
