"""Measurements behind the figures in README.md; each prints medians of alternating repeats."""
