"""Random draws that belong to a sample in a step, however the step is cut into batches."""

import hashlib

import numpy as np


def sample_generator(seed: int, step: int, sample_id: str, purpose: str) -> np.random.Generator:
    """A generator that depends on seed, step, sample and purpose, and not on how the step is cut into batches."""
    key = f"{seed}/{step}/{sample_id}/{purpose}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()))


__all__ = ["sample_generator"]
