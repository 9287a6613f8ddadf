"""The report of a stored study, or of two side by side: one self-contained page."""

from relrank.report.page import write_comparison, write_report
from relrank.report.verdict_summary import answer

__all__ = ["answer", "write_comparison", "write_report"]
