"""Recurrent networks over rows: each sample as if it were alone."""

import pytest
import torch
from torch import nn

from modeling_cpsl.rows_cpsl import RowLSTM, left_aligned, reversed_rows


LENGTHS = (5, 0, 1, 3)


@pytest.fixture
def padded():
    """Rows with gaps between them, and what they are without: (B, L, d), the mask, and each sample's rows."""
    generator = torch.Generator().manual_seed(0)
    values, mask = torch.randn(4, 9, 3, generator=generator), torch.zeros(4, 9, dtype=torch.bool)
    for sample, length in enumerate(LENGTHS):
        mask[sample, torch.randperm(9, generator=generator)[:length]] = True
    return values, mask, [values[sample, mask[sample]] for sample in range(4)]


def test_rows_are_moved_to_the_left_in_their_order(padded):
    values, mask, alone = padded
    rows, lengths = left_aligned(values.masked_fill(~mask[..., None], torch.nan), mask)
    assert lengths.tolist() == list(LENGTHS)
    for sample, expected in enumerate(alone):
        assert torch.equal(rows[sample, : len(expected)], expected)
        assert not rows[sample, len(expected) :].any()
        assert torch.equal(reversed_rows(rows, lengths)[sample, : len(expected)], expected.flip(0))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_are_those_of_each_sample_alone(padded, bidirectional):
    values, mask, alone = padded
    torch.manual_seed(0)
    ours = RowLSTM(3, 4, bidirectional)
    reference = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional)
    for lstm, suffix in zip(ours.directions, ("", "_reverse"), strict=False):
        for name, parameter in lstm.named_parameters():
            getattr(reference, name + suffix).data.copy_(parameter)
    states, last = ours(*left_aligned(values, mask))
    for sample, rows in enumerate(alone):
        if not len(rows):
            assert not states[sample].any() and not last[sample].any()
            continue
        expected, (final, _) = reference(rows[None])
        torch.testing.assert_close(states[sample, : len(rows)], expected[0])
        torch.testing.assert_close(last[sample], final.flatten())
        assert not states[sample, len(rows) :].any()


def test_what_is_not_a_row_has_no_say(padded):
    values, mask, _ = padded
    lstm = RowLSTM(3, 4, bidirectional=True)
    results = []
    for garbage in (0.0, 1e30, torch.nan):
        values = values.masked_fill(~mask[..., None], garbage).detach().requires_grad_()
        lstm.zero_grad()
        _, last = lstm(*left_aligned(values, mask))
        last.sum().backward()
        results.append([last.detach(), values.grad, *(parameter.grad.clone() for parameter in lstm.parameters())])
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))
    assert not results[0][1][~mask].any()
