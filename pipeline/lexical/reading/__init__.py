"""Read a trained student: the senses of words in annotated sets, and in a sentence that a user typed."""
