"""Figures of what training did to the weights, drawn from saved adapters, and the numbers behind them."""

from genft.figures.registry import FIGURES, draw
from genft.figures.updates import Subject, WeightUpdate, read_subject, read_subjects

__all__ = ["FIGURES", "Subject", "WeightUpdate", "draw", "read_subject", "read_subjects"]
