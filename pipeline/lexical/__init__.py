"""Stages `lexical`, `sense_teachers`, `published`: students that learn word senses."""
