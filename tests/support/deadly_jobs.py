"""A job for the processes of an extraction that some clips do not survive; a process that is started imports it."""

import os
import signal

from data_builders.files import DataError


def length_of_name(job):
    """The length of a clip's name, except that of some clips."""
    match job.clip.path.stem:
        case "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        case "huge":
            raise MemoryError
        case "broken":
            raise DataError(f"{job.clip.path}: broken\nin two lines")
    return len(job.clip.name)
