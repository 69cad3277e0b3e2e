"""Sections `lexicon` and `senses`: the sense inventory, and words in context with their senses."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.core.config import Section


class SensesParams(Section):
    """One entry of `senses`: where words in context come from, and what is held out."""

    kind: Literal["raganato", "examples", "text"]
    """Annotated text in the layout of Raganato et al. 2017, the examples of the inventory itself, or documents without
    annotation: the words of their train split that a tagger and the inventory find."""
    path: str
    """Folder with one *.data.xml and one *.gold.key.txt (also .gz, .zst), or the former; of examples: data/lexicon; of
    text: data/documents."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the documents (of examples: of the meanings), by a hash of their name."""
    heldout: float = Field(default=0.0, ge=0, lt=1)
    """Share of these that is held out for evaluation, by another hash; of text none."""
    most_words: int | None = Field(default=None, ge=1)
    """Of text: so many words at most, of documents drawn by a hash of their name; None: all."""
    licence: str = Field(default="", exclude=True)
    """Of the annotated text, or of the inventory's examples; kept with the store, for cards of what learned from it."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.kind == "text":
            if self.heldout or self.licence:
                raise ValueError(
                    "kind text holds nothing out, as nobody annotated it, and has the licences of its documents: leave "
                    "out heldout and licence"
                )
        elif "heldout" not in self.model_fields_set:
            raise ValueError("heldout is missing: the share whose words evaluate lexical students")
        elif self.most_words is not None:
            raise ValueError("most_words belongs to kind text; lower share instead")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a limit as it was before there was one: identities hash it."""
        settings: dict[str, Any] = dump(self)
        if self.most_words is None:
            settings.pop("most_words", None)
        return settings


class LexiconParams(Section):
    """The `lexicon` section."""

    kind: Literal["wordnet", "jsonl"]
    """`wordnet`: database files in Princeton's form (WNDB), of WordNet 3.0 or another wordnet; `jsonl`: the user's own
    inventory, see `read_inventory`."""
    path: str
    """Folder of WordNet's files, or the file."""
