"""The report of a stored study: one self-contained page."""

from relrank.report.page import write_report
from relrank.report.verdict_summary import answer

__all__ = ["answer", "write_report"]
