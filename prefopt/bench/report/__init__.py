"""The records of a benchmark for people: one HTML page, the same tables as Markdown, a summary for the terminal.

No statistic is computed here: every number is one of `prefopt.bench.results`, or the plain mean of some of them.
"""

from prefopt.bench.report.markdown import markdown
from prefopt.bench.report.page import write
from prefopt.bench.report.terminal import print_summary

__all__ = ["markdown", "print_summary", "write"]
