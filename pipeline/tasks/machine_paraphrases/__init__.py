"""The published corpus of machine paraphrases, in the two layouts in which people have it."""
