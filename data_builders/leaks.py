"""What splits should not have in common."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any


def repeated_ids(splits: Mapping[str, Any]) -> list[str]:
    """The ids that occur more than once in the splits together, in the order of the data.

    Args:
        splits: Data sets with the columns `id` and `video_id`, or dicts of such lists.
    """
    counts = Counter(name for split in splits.values() for name in split["id"][:])
    return [name for name, count in counts.items() if count > 1]


def shared_videos(splits: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """The videos that two splits have in common, in alphabetical order, for each two splits where there are any.

    Args:
        splits: As for [`repeated_ids`].
    """
    videos = {name: set(split["video_id"][:]) for name, split in splits.items()}
    pairs = itertools.combinations(videos, 2)
    return {(one, other): sorted(shared) for one, other in pairs if (shared := videos[one] & videos[other])}
