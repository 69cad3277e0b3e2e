"""Stages `evaluate*`, `fidelity`, `language_model`, `costs`: models and targets judged on held-out text."""
