"""Rows: reading and checking them, ids, splits, protocols, the audit, public and planted data."""
