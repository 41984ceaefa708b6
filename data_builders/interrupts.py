"""Interrupts (Ctrl-C) while several processes work: one KeyboardInterrupt in the process that waits for them."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupting_once() -> Iterator[None]:
    """Makes an interrupt one KeyboardInterrupt within the block.

    A terminal interrupts the workers too, which would print tracebacks, and `datasets` then raises an error of its own
    about results that it did not get.
    """
    process, interrupted = os.getpid(), False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if os.getpid() == process:  # forked workers have this handler as well
            interrupted = True
            raise KeyboardInterrupt

    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
