"""Ranking against the full catalogue, metrics, per-user tables, and paired differences between them."""
