"""Stages `wsd`, `glue`, `rewrite`, `paraphrase`: models judged on tasks."""
