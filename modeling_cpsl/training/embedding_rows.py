"""Trains only those rows of a text encoder's embedding table whose tokens occur in the training data.

The table is half of DeBERTa-v3's parameters, and a data set such as CMU-MOSI uses 2 % of its rows. The others get no
gradient, yet cost memory, time and disk: a dense gradient, its norm, and two moments of AdamW.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from data_builders.columns import read_columns


logger = logging.getLogger(__name__)


class PartlyTrainedEmbedding(nn.Module):
    """An embedding table (V, d) of which some rows are trained and the others are frozen.

    Its state has the whole table, under the name that it has in `nn.Embedding`.

    Args:
        embedding: The table.
        rows: (n,), ids of the rows to train.
    """

    def __init__(self, embedding: nn.Embedding, rows: Tensor):
        super().__init__()
        table = embedding.weight.detach()
        self.rows = rows.to(table.device)
        # frozen parameters rather than buffers, which DDP would send to all processes at each step
        self.weight = nn.Parameter(table, requires_grad=False)
        self.trained = nn.Parameter(table[self.rows])
        self.positions = torch.full((len(table),), -1, device=table.device)
        self.positions[self.rows] = torch.arange(len(rows), device=table.device)

    def forward(self, ids: Tensor) -> Tensor:
        """The embeddings (..., d) of token ids (...)."""
        positions = self.positions[ids]
        trained = F.embedding(positions.clamp(min=0), self.trained)
        return torch.where((positions >= 0).unsqueeze(-1), trained, F.embedding(ids, self.weight))

    @torch.no_grad()
    def whole_table(self) -> Tensor:
        """The table (V, d) with the trained rows in their places."""
        return self.weight.index_copy(0, self.rows, self.trained.to(self.weight.dtype))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.whole_table()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        table = state_dict.get(f"{prefix}weight")
        if table is None:
            missing_keys.append(f"{prefix}weight")
            return
        with torch.no_grad():
            self.weight.copy_(table)
            self.trained.copy_(table[self.rows.to(table.device)])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.rows, self.positions = fn(self.rows), fn(self.positions)
        return super()._apply(fn, recurse)


@contextlib.contextmanager
def trained_embeddings(model: nn.Module, choice: str, dataset: Any) -> Iterator[bool]:
    """Lets a model train a part of its embedding table within the block; after it the model is as before, but trained.

    A table that is not trained at all, because it is frozen or the model reads no text, stays as it is.

    Args:
        model: A model of transformers, on the device that it is trained on.
        choice: `used` (the rows of tokens that occur in `dataset`, or all where it cannot be read beforehand), `all`
            or `none`.
        dataset: The encoded training split.

    Yields:
        Whether the model's parameters are others within the block than before and after it.
    """
    embedding = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    if not isinstance(embedding, nn.Embedding) or choice == "all" or not embedding.weight.requires_grad:
        yield False
    elif choice == "none":
        embedding.weight.requires_grad_(False)
        try:
            yield False
        finally:
            embedding.weight.requires_grad_(True)
    elif not isinstance(dataset, Dataset) or not _is_plain(embedding, model):
        logger.info("all embeddings are trained: the tokens of a stream, or other uses of the table, are not known")
        yield False
    else:
        partly = PartlyTrainedEmbedding(embedding, used_rows(dataset, embedding))
        model.set_input_embeddings(partly)
        try:
            yield True
        finally:
            embedding.weight.data = partly.weight.data  # the same memory, unless the model was moved
            with torch.no_grad():
                embedding.weight.index_copy_(0, partly.rows, partly.trained.to(embedding.weight.dtype))
            model.set_input_embeddings(embedding)


def used_rows(dataset: Dataset, embedding: nn.Embedding) -> Tensor:
    """The ids (n,) of the tokens in an encoded split, ascending, without that of padding, which is not trained."""
    used = np.zeros(embedding.num_embeddings, bool)
    for table in read_columns(dataset, ["input_ids"]):
        used[table["input_ids"].combine_chunks().flatten().to_numpy()] = True
    if embedding.padding_idx is not None:
        used[embedding.padding_idx] = False
    return torch.from_numpy(used.nonzero()[0])


def trained_rows(model: nn.Module) -> Tensor:
    """The ids (n,) of the embeddings of a model that alone are trained at present; none where all or none are."""
    for module in model.modules():
        if isinstance(module, PartlyTrainedEmbedding):
            return module.rows.cpu()
    return torch.zeros(0, dtype=torch.long)


def check_trained_rows(model: nn.Module, rows: Tensor) -> None:
    """Refuses to go on with a training whose optimizer knows other rows.

    Raises:
        ValueError: `rows`, those of the earlier training, are not the model's.
    """
    if not torch.equal(trained_rows(model), rows.cpu()):
        raise ValueError("the training data has other tokens than before, or train_embeddings is another")


def _is_plain(embedding: nn.Embedding, model: nn.Module) -> bool:
    """Whether a table does nothing but look up, for nobody else: no other part has it, and no hook, as NEFTune's."""
    users = [weight for _, weight in model.named_parameters(remove_duplicate=False) if weight is embedding.weight]
    has_hooks = bool(embedding._forward_hooks or embedding._forward_pre_hooks)
    return type(embedding) is nn.Embedding and len(users) == 1 and not has_hooks


__all__ = ["PartlyTrainedEmbedding", "check_trained_rows", "trained_embeddings", "trained_rows", "used_rows"]
