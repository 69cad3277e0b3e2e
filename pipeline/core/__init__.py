"""Settings, seeds, progress, the runtime and the machine: every other subpackage may use them."""
