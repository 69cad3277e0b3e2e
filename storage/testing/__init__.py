"""For tests of stores, of this project's and of other writers: a contract, samples, damage. `contract` needs pytest."""
