"""Stages `evaluate*`, `fidelity`, `language-model`, `costs`: models and targets judged on held-out text."""
