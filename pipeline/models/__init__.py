"""Masked language models: loaded one at a time, identified, optimised, checkpointed and published."""
