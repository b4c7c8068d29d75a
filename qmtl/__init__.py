"""Carry a trading strategy from history to live money without changing a line."""

__version__ = "0.1.0"
