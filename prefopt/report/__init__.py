"""Training runs for people: their curves side by side on one HTML page, and a summary for the terminal."""

from prefopt.report.page import write
from prefopt.report.reading import read_runs
from prefopt.report.terminal import print_summary

__all__ = ["print_summary", "read_runs", "write"]
