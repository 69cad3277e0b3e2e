"""Any masked language model as it is published: a matrix of families, and what became of each."""
