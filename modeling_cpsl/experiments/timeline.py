"""The picture of a clip: its words, its sentiment and what was measured, over time."""

import os

from .clip_prediction import ClipAnalysis


def plot_timeline(analysis: ClipAnalysis, path: str | os.PathLike, *, title: str | None = None) -> None:
    """Draws the sentiment of a clip over its time.

    From above: words, coloured by their share in the score; the score of each segment with its interval, and each
    modality's own score; tracks of what was measured.

    Args:
        analysis: From [`analyse`].
        path: The PNG file to write.
        title: Stands above the picture.
    """
    raise NotImplementedError
