"""The studies of GenFT's paper on any task and model: each is a bench underneath, with a figure and a table."""

from genft.study.studies import STUDIES, Measured, Study, Variant, get_study, measure, study_matrices

__all__ = ["STUDIES", "Measured", "Study", "Variant", "get_study", "measure", "study_matrices"]
