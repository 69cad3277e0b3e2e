"""Stores for others: audit, inspection, cards, archives, Parquet, URLs."""
