"""Stages `evaluate*`, `fidelity`, `language_model`, `costs`: models and targets evaluated on held-out text."""
