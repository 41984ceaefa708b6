"""Where data comes from: one call that reads word-aligned multimodal sentiment data in every form people have it."""

from .builder import (
    AlignedSentimentBuilder,
    CMUMosei,
    CMUMosi,
    features_are_normalized,
    load_aligned_dataset,
    make_builder,
)
from .files import DataError
from .safe_pickle import safe_pickle_load


__all__ = [
    "AlignedSentimentBuilder",
    "CMUMosei",
    "CMUMosi",
    "DataError",
    "features_are_normalized",
    "load_aligned_dataset",
    "make_builder",
    "safe_pickle_load",
]
