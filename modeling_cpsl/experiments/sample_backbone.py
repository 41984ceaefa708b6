"""A text encoder for the sample corpus: a small random DeBERTa-v3 with a tokenizer made from the corpus' own words."""

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


_MAX_LENGTH = 128


def make_sample_backbone(
    words: Iterable[str],
    save_directory: str | os.PathLike,
    *,
    seed: int = 0,
    hidden_size: int = 128,
    num_hidden_layers: int = 2,
) -> Path:
    """Writes a small DeBERTa-v3 with random weights and a tokenizer for `words`: a folder that the Auto classes load.

    Each word is one piece but for a tenth, drawn with `seed`, which are left to two, so that the alignment of words to
    pieces has work to do. Any other word falls into pieces and characters. The folder appears whole or not at all, and
    one that already holds the same files is left as it is.

    Args:
        words: The words of the corpus, in any order, repeated or not.
        save_directory: The folder to write.
        seed: Decides the weights and the words left to two pieces.
        hidden_size: Width of the encoder, a multiple of 2 (its number of heads).
        num_hidden_layers: Depth of the encoder.

    Returns:
        `save_directory` as a path.

    Raises:
        FileExistsError: `save_directory` holds something else.
    """
    directory = Path(save_directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = DebertaV2Tokenizer(vocab=_unigram_vocabulary(words, seed), unk_id=3, model_max_length=_MAX_LENGTH)
    model = _random_encoder(len(tokenizer), seed, hidden_size, num_hidden_layers)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as unfinished:
        fresh = Path(unfinished, "backbone")
        tokenizer.save_pretrained(fresh)
        model.save_pretrained(fresh)
        files = sorted(path.name for path in fresh.iterdir())
        try:
            fresh.rename(directory)
        except OSError:
            if not directory.exists():
                raise
            if filecmp.cmpfiles(fresh, directory, files, shallow=False)[0] != files:
                raise FileExistsError(
                    f"{directory} exists and is not the sample backbone of these words, sizes and seed {seed}; "
                    "remove it or name another folder"
                ) from None
    return directory


def _unigram_vocabulary(words: Iterable[str], seed: int) -> list[tuple[str, float]]:
    vocabulary = sorted({word for word in words if word})
    long_words = [word for word in vocabulary if len(word) > 3]
    split = set(random.Random(seed).sample(long_words, min(len(vocabulary) // 10, len(long_words))))
    pieces = []
    for word in vocabulary:
        middle = len(word) // 2
        pieces += [f"▁{word[:middle]}", word[middle:]] if word in split else [f"▁{word}"]
    characters = sorted({*string.ascii_letters, *string.digits, *string.punctuation, *"".join(vocabulary), "▁"})
    # With equal scores the fewest pieces win, so that a word that is a piece is never cut.
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
