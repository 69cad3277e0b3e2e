"""Bytes on disk: arrays, codes, manifests, and refusals of untrusted headers."""
