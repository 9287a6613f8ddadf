"""Negatives and neighbours, drawn anew for every batch."""
