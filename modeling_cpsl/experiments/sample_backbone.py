"""A text encoder for the sample corpus: a small DeBERTa-v3 with random weights and a tokenizer for its words."""

import filecmp
import math
import os
import random
import string
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import DebertaV2Config, DebertaV2Model, DebertaV2Tokenizer

from data_builders.files import new_folder


_MAX_LENGTH = 128


def make_sample_backbone(
    words: Iterable[str],
    save_directory: str | os.PathLike,
    *,
    seed: int = 0,
    hidden_size: int = 128,
    num_hidden_layers: int = 2,
) -> Path:
    """Writes a small DeBERTa-v3 with random weights and a tokenizer for `words`, for the Auto classes to load.

    Each word is one piece of the tokenizer's vocabulary, but for a tenth of the long words, drawn with `seed`, which
    are two pieces each, so that the alignment of words and pieces is put to use. Words that are not in `words` fall
    into pieces and characters. The folder appears complete or not at all; a folder that already holds the same files
    is left as it is.

    Args:
        words: The words of the corpus, in any order and with repetitions.
        save_directory: The folder to write.
        seed: Determines the weights and the words that become two pieces.
        hidden_size: Width of the encoder; even, since it has two attention heads.
        num_hidden_layers: Depth of the encoder.

    Returns:
        `save_directory` as a path.

    Raises:
        FileExistsError: `save_directory` holds something else.
        WriteError: The folder could not be written.
    """
    directory = Path(save_directory)
    tokenizer = DebertaV2Tokenizer(vocab=_unigram_vocabulary(words, seed), unk_id=3, model_max_length=_MAX_LENGTH)
    model = _random_encoder(len(tokenizer), seed, hidden_size, num_hidden_layers)
    if not directory.exists():
        try:
            with new_folder(directory) as folder:
                _save(tokenizer, model, folder)
            return directory
        except FileExistsError:  # another process has just made it
            pass
    with tempfile.TemporaryDirectory() as expected:
        _save(tokenizer, model, expected)
        files = os.listdir(expected)
        if filecmp.cmpfiles(expected, directory, files, shallow=False)[0] != files:
            raise FileExistsError(
                f"{directory} exists and is not the sample backbone of these words, sizes and seed {seed}; "
                "remove it or name another folder"
            )
    return directory


def _save(tokenizer: DebertaV2Tokenizer, model: DebertaV2Model, folder: str | os.PathLike) -> None:
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _unigram_vocabulary(words: Iterable[str], seed: int) -> list[tuple[str, float]]:
    vocabulary = sorted({word for word in words if word})
    long_words = [word for word in vocabulary if len(word) > 3]
    split = set(random.Random(seed).sample(long_words, min(len(vocabulary) // 10, len(long_words))))
    pieces = []
    for word in vocabulary:
        middle = len(word) // 2
        pieces += [f"▁{word[:middle]}", word[middle:]] if word in split else [f"▁{word}"]
    characters = sorted({*string.ascii_letters, *string.digits, *string.punctuation, *"".join(vocabulary), "▁"})
    # With equal scores the segmentation into the fewest pieces wins, so that a word that is a piece is never cut.
    pieces = list(dict.fromkeys([*pieces, *characters]))
    score = -math.log(len(pieces))
    # The ids of DeBERTa-v3: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3, and [MASK] last.
    specials = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    return [*specials, *((piece, score) for piece in pieces), ("[MASK]", 0.0)]


def _random_encoder(vocab_size: int, seed: int, hidden_size: int, num_hidden_layers: int) -> DebertaV2Model:
    config = DebertaV2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=_MAX_LENGTH,
        relative_attention=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return DebertaV2Model(config)
