"""Stages `ingest` and `corpus`: texts of any format and size to one corpus, split, without duplicates."""
