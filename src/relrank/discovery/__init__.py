"""Proposes a study from tables: which hold interactions, nodes, links and texts, and which relations they offer."""

from relrank.discovery.discover import discover
from relrank.discovery.proposal import Choice, Finding, Hints, Proposal
from relrank.discovery.statements import Statement

__all__ = ["Choice", "Finding", "Hints", "Proposal", "Statement", "discover"]
