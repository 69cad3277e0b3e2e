"""Stage `sources`: models and WordNet, from a folder, the hub or a mirror."""
