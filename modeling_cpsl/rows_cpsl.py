"""Rows of a modality, one a word, as a recurrent network reads them."""

import torch
from torch import Tensor, nn


def left_aligned(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of each sample that a mask selects, in their order and without gaps.

    Args:
        values: (B, L, d).
        mask: (B, L) bool, True at the rows to keep.

    Returns:
        The rows (B, L, d), 0 behind the last one of a sample, and the number of rows (B,).
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    # No two keys are the same, so any sort will do; ONNX has no stable one.
    order = torch.where(mask, positions, positions + mask.shape[1]).argsort(dim=1)
    lengths = mask.sum(dim=1)
    rows = values.gather(1, order[..., None].expand_as(values))
    return torch.where(_valid(rows, lengths), rows, 0.0), lengths


def reversed_rows(rows: Tensor, lengths: Tensor) -> Tensor:
    """The rows (B, L, d) of each sample from the last to the first, those behind its `lengths` (B,) left in place."""
    # `len(rows)` would make the batch size a constant of an exported model.
    positions = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[0], -1)
    order = torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)
    return rows.gather(1, order[..., None].expand_as(rows))


class RowLSTM(nn.Module):
    """An LSTM whose states are those of each sample alone, whatever it is padded to.

    Rows stand to the left, so that no padding comes before a row, in either direction; the number of rows stays on the
    device, which `pack_padded_sequence` would have to wait for.

    Args:
        input_size: d.
        hidden_size: Size h of a state.
        bidirectional: Whether a second LSTM reads the rows from the last to the first.
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False):
        super().__init__()
        directions = 2 if bidirectional else 1
        self.directions = nn.ModuleList(nn.LSTM(input_size, hidden_size, batch_first=True) for _ in range(directions))

    def forward(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Reads the rows of each sample.

        Args:
            rows: (B, L, d), see [`left_aligned`].
            lengths: (B,), the number of rows.

        Returns:
            The states (B, L, h) and the last one of each direction (B, h), with two directions (B, L, 2 h) and
            (B, 2 h). Both are 0 where there is no row.
        """
        states, last = [], []
        for is_backward, lstm in enumerate(self.directions):
            output = lstm(reversed_rows(rows, lengths) if is_backward else rows)[0]
            output = torch.where(_valid(output, lengths), output, 0.0)
            at = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, output.shape[2])
            last.append(output.gather(1, at).squeeze(1))
            states.append(reversed_rows(output, lengths) if is_backward else output)
        return torch.cat(states, dim=-1), torch.cat(last, dim=-1)


def _valid(rows: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, 1) bool, True at the rows of a sample."""
    return (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None])[..., None]


__all__ = ["RowLSTM", "left_aligned", "reversed_rows"]
