"""Shows what a study stored: one self-contained page."""

from relrank.report.answer import answer
from relrank.report.page import write_report

__all__ = ["answer", "write_report"]
