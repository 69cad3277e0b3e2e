"""params.yaml as a whole: decoded, checked for consistency, and what of its outputs may be removed."""
