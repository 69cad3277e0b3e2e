"""Stages `wsd`, `glue`, `rewrite`, `paraphrase`: models evaluated on tasks."""
