"""Stages `lexicon` and `senses`: the sense inventory, and words in context."""
