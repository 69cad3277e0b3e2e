"""The results as a page for a browser: one file that needs no network, with charts and an explorer of predictions."""
