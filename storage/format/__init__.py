"""Bytes on disk: arrays, codes, manifests, and refusals of headers from strangers."""
