"""Word in context (WiC): whether a word has the same meaning in two sentences."""
