"""Tell what a bundle holds: as one page that needs nothing else, as text in a terminal.

Both are made of the same sections, so neither has a figure that the other lacks. A page has no
script, asks nobody for anything, and fits a telephone.
"""

from bench.report.knee import Knee, Level, find_knee
from bench.report.writing import write_report

__all__ = ["Knee", "Level", "find_knee", "write_report"]
