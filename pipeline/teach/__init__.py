"""Stages `teach` and `exact`: each teacher's predictions at every masked position."""
