"""What lexical training gives an encoder beyond the senses of a word."""
