"""Families of masked language models as tiny configurations: each architecture's own class with small numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["wordpiece", "byte-bpe", "unigram"]

ROBERTA = {"pad": "<pad>", "mask": "<mask>", "cls": "<s>", "sep": "</s>", "unk": "<unk>"}
BERT = {"pad": "[PAD]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"}
ALBERT = {"pad": "<pad>", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "unk": "<unk>"}
MPNET = ROBERTA | {"unk": "[UNK]"}
FUNNEL = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "sep": "<sep>", "unk": "<unk>"}

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family: its model type in transformers, its kind of tokenizer, and what it calls the special tokens."""

    model_type: str
    kind: Kind = "wordpiece"
    names: dict[str, str] = field(default_factory=lambda: BERT)
    named: bool = False
    """True where published folders name the special tokens; else transformers' tokenizer class does."""
    first: tuple[str, ...] = ("pad", "unk", "cls", "sep", "mask")
    """Roles of the first ids; a role that is not listed comes last, as RoBERTa's mask does."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Beside or instead of SMALL."""
    plain: bool = True
    """False where the configuration takes none of SMALL's names."""
    refused: str | None = None
    """What the one clear refusal says, where the family is refused."""

    def config(self, *, vocabulary: int, special: dict[str, int]) -> Any:
        """The configuration for this vocabulary and these special ids."""
        from transformers import AutoConfig

        ids = {
            "pad_token_id": special["pad"],
            "bos_token_id": special["cls"],
            "eos_token_id": special["sep"],
            "cls_token_id": special["cls"],
            "sep_token_id": special["sep"],
            "mask_token_id": special["mask"],
        }
        return AutoConfig.for_model(
            self.model_type, vocab_size=vocabulary, **ids, **(SMALL if self.plain else {}), **self.settings
        )


LIKE_ROBERTA: dict[str, Any] = {"names": ROBERTA, "first": ("cls", "pad", "sep", "unk")}
SQUEEZED = {f"{part}_groups": 2 for part in ("q", "k", "v")} | {
    f"{part}_groups": 1 for part in ("post_attention", "intermediate", "output")
}

FAMILIES: dict[str, Family] = {
    "bert": Family(model_type="bert"),
    "roberta": Family(model_type="roberta", kind="byte-bpe", **LIKE_ROBERTA),
    "distilbert": Family(
        model_type="distilbert",
        plain=False,
        settings={"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "xlm-roberta": Family(model_type="xlm-roberta", kind="unigram", **LIKE_ROBERTA),
    "camembert": Family(
        model_type="camembert", kind="unigram", names=ROBERTA, named=True, first=("cls", "pad", "sep", "unk")
    ),
    "albert": Family(
        model_type="albert",
        kind="unigram",
        names=ALBERT,
        settings={"embedding_size": 16, "num_hidden_groups": 1},
    ),
    "electra": Family(model_type="electra", settings={"embedding_size": 16}),
    "mpnet": Family(model_type="mpnet", names=MPNET, first=("cls", "pad", "sep", "unk", "mask")),
    "deberta": Family(
        model_type="deberta",
        kind="byte-bpe",
        settings={"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "legacy": True},
    ),
    "deberta-v2": Family(
        model_type="deberta-v2",
        kind="unigram",
        first=("pad", "cls", "sep", "unk"),
        settings={
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "position_biased_input": False,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "deberta-v3": Family(
        model_type="deberta-v2",
        kind="unigram",
        first=("pad", "cls", "sep", "unk"),
        settings={
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "legacy": False,
            "position_biased_input": False,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "convbert": Family(model_type="convbert", settings={"embedding_size": 32}),
    "mobilebert": Family(
        model_type="mobilebert",
        settings={"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "squeezebert": Family(model_type="squeezebert", settings={"embedding_size": 32, **SQUEEZED}),
    "fnet": Family(model_type="fnet", kind="unigram", names=ALBERT),
    "funnel": Family(
        model_type="funnel",
        names=FUNNEL,
        first=("cls", "sep", "unk", "mask", "pad"),
        plain=False,
        settings={
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 64,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
    ),
    "longformer": Family(
        model_type="longformer", kind="byte-bpe", settings={"attention_window": [8, 8]}, **LIKE_ROBERTA
    ),
    "big_bird": Family(
        model_type="big_bird", kind="unigram", names=ALBERT, settings={"attention_type": "original_full"}
    ),
    "roformer": Family(model_type="roformer", settings={"embedding_size": 32}),
    "rembert": Family(
        model_type="rembert",
        kind="unigram",
        names=ALBERT,
        settings={"input_embedding_size": 16, "output_embedding_size": 24},
    ),
    "megatron-bert": Family(model_type="megatron-bert"),
    "modernbert": Family(model_type="modernbert", kind="byte-bpe", named=True),
    "eurobert": Family(model_type="eurobert", kind="byte-bpe", named=True, settings={"num_key_value_heads": 2}),
    "nomic_bert": Family(model_type="nomic_bert", named=True),
    "nystromformer": Family(model_type="nystromformer", kind="unigram", names=ALBERT, named=True),
    "perceiver": Family(
        model_type="perceiver",
        named=True,
        plain=False,
        refused="gives no logits for a plain text",
        settings={"d_model": 32, "d_latents": 32, "num_latents": 4, "max_position_embeddings": 64},
    ),
}
"""Twenty-six families: what fill-mask models on the hub are made of."""
