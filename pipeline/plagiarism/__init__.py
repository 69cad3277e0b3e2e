"""Stages `plagiarism_sets` and `plagiarism`: which passages of a document were taken from which sources."""
