"""Settings, seeds, progress, the runtime and the machine: what every other subpackage may use."""
