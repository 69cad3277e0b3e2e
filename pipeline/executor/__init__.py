"""Who makes the shards of a store: threads, processes, or a Dask cluster."""
