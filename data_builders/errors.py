"""The one error that reading data raises."""

from datasets.exceptions import DatasetGenerationError


class DataError(ValueError, DatasetGenerationError):
    """Data that cannot be read: one line that names the file, the sample, the field and the way out.

    It is a `DatasetGenerationError` too, because `datasets` hides every other exception of a build behind one of its
    own that says nothing of the cause.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))
