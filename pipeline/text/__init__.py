"""Stages `ingest`, `corpus`, `tokenize`, `mask`: texts, windows, masked positions, and what a model sees of them."""
