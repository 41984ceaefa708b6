"""Eq. 5 and 6 against plain Python."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from modulation_cases import (
    DAMPED_TIE,
    EPS,
    alphas,
    floats_of,
    magnitudes,
    penalty_factors,
    reference_coefficients,
    scalars,
)

from modeling_cpsl.modulation import modulation_coefficients


def pair_coefficients(mae_a, mae_v, g_a, g_v, alpha, eta):
    """Eq. 5 and 6 of the paper as they are printed, for its pair."""
    s_a, s_v = 1 / (mae_a + EPS), 1 / (mae_v + EPS)
    c_a = 1 - math.tanh(alpha * max(s_a / (s_v + EPS), 0)) if s_a > s_v else 1.0
    c_v = 1 - math.tanh(alpha * max(s_v / (s_a + EPS), 0)) if s_v > s_a else 1.0
    if mae_a < mae_v and g_a > g_v:
        c_a *= eta
    if mae_v < mae_a and g_v > g_a:
        c_v *= eta
    return c_a, c_v


class TestCoefficients:
    @given(
        pairs=st.lists(st.tuples(magnitudes, magnitudes), min_size=1, max_size=5),
        alpha=alphas,
        penalty_factor=penalty_factors,
        modulate=st.booleans(),
        penalize=st.booleans(),
    )
    def test_match_the_plain_reference(self, pairs, alpha, penalty_factor, modulate, penalize):
        errors = {f"m{i}": error for i, (error, _) in enumerate(pairs)}
        norms = {f"m{i}": norm for i, (_, norm) in enumerate(pairs)}
        options = {"alpha": alpha, "penalty_factor": penalty_factor, "modulate": modulate, "penalize": penalize}
        expected = reference_coefficients(errors, norms, **options)
        assume(expected is not None)
        actual = floats_of(modulation_coefficients(scalars(errors), scalars(norms), **options))
        assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)

    @given(mae_a=magnitudes, mae_v=magnitudes, g_a=magnitudes, g_v=magnitudes, alpha=alphas, eta=penalty_factors)
    def test_two_modalities_are_the_paper_s_pair(self, mae_a, mae_v, g_a, g_v, alpha, eta):
        errors, norms = scalars({"a": mae_a, "v": mae_v}), scalars({"a": g_a, "v": g_v})
        actual = modulation_coefficients(errors, norms, alpha=alpha, penalty_factor=eta)
        expected = pair_coefficients(mae_a, mae_v, g_a, g_v, alpha, eta)
        assert (actual["a"].item(), actual["v"].item()) == pytest.approx(expected, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("num_modalities", [2, 3, 4, 5, 6, 7])
    @pytest.mark.parametrize("error", [0.0, 0.1, 0.7, 1.1, 1e-30])
    def test_a_tie_is_not_modulated(self, num_modalities, error):
        errors = {f"m{i}": error for i in range(num_modalities)}
        norms = {f"m{i}": float(i) for i in range(num_modalities)}
        assert set(floats_of(modulation_coefficients(scalars(errors, torch.float32), scalars(norms))).values()) == {1}

    def test_equal_norms_are_no_conflict(self):
        errors, norms = {"a": 0.5, "v": 0.6, "t": 0.7}, {"a": 0.1, "v": 0.1, "t": 0.1}
        both = [modulation_coefficients(scalars(errors), scalars(norms), penalize=p)["a"] for p in (True, False)]
        assert both[0] == both[1] < 1

    def test_alpha_one_gives_one_or_at_most_0_238(self):
        """The largest damped coefficient, 1 - tanh(1), and half of it under conflict."""
        errors = scalars({"a": 1.0 - 1e-9, "v": 1.0})
        in_conflict = modulation_coefficients(errors, scalars({"a": 2.0, "v": 1.0}))
        assert floats_of(in_conflict) == pytest.approx({"a": DAMPED_TIE / 2, "v": 1})
        without = modulation_coefficients(errors, scalars({"a": 1.0, "v": 2.0}))
        assert floats_of(without) == pytest.approx({"a": DAMPED_TIE, "v": 1})

    def test_penalty_alone_starts_from_one(self):
        errors, norms = scalars({"a": 0.5, "v": 0.6}), scalars({"a": 2.0, "v": 1.0})
        penalized = modulation_coefficients(errors, norms, modulate=False, penalty_factor=0.3)
        assert floats_of(penalized) == pytest.approx({"a": 0.3, "v": 1})

    def test_a_modality_without_error_is_left_out(self):
        errors = {"a": 0.5, "v": 0.6, "t": math.nan}
        norms = {"a": 1.0, "v": 2.0, "t": 9.0}
        actual = floats_of(modulation_coefficients(scalars(errors), scalars(norms)))
        pair = modulation_coefficients(scalars({"a": 0.5, "v": 0.6}), scalars({"a": 1.0, "v": 2.0}))
        assert actual == {**floats_of(pair), "t": 1.0}

    extremes = st.sampled_from([0.0, 1e-45, 1e-8, 1.0, 1e30, 3e38, math.inf, math.nan])

    @given(values=st.lists(st.tuples(extremes, extremes), min_size=1, max_size=4), alpha=st.sampled_from([1.0, 1e30]))
    def test_always_finite(self, values, alpha):
        errors = scalars({str(i): error for i, (error, _) in enumerate(values)}, torch.float32)
        norms = scalars({str(i): norm for i, (_, norm) in enumerate(values)}, torch.float32)
        assert all(0 <= c <= 1 for c in floats_of(modulation_coefficients(errors, norms, alpha=alpha)).values())

    def test_half_precision_errors_are_compared_in_float32(self):
        coefficients = modulation_coefficients(scalars({"a": 0.5, "v": 0.75}, torch.bfloat16), penalize=False)
        assert coefficients["a"].dtype == torch.float32
        assert coefficients["a"].item() == pytest.approx(1 - math.tanh(1.5), rel=1e-6)

    def test_nothing_to_compare(self):
        assert modulation_coefficients({}, {}) == {}

    def test_penalty_needs_the_norms(self):
        with pytest.raises(ValueError, match="penalize=True needs grad_norms"):
            modulation_coefficients(scalars({"a": 1.0, "v": 2.0}))
        with pytest.raises(ValueError, match=r"\['v'\].*\['a'\]"):
            modulation_coefficients(scalars({"a": 1.0}), scalars({"v": 1.0}))

    @pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
    def test_alpha_out_of_range(self, alpha):
        with pytest.raises(ValueError, match=f"alpha={alpha}"):
            modulation_coefficients(scalars({"a": 1.0}), scalars({"a": 1.0}), alpha=alpha)

    @pytest.mark.parametrize("penalty_factor", [-0.5, 0.0, 1.0, 1.5, math.nan])
    def test_penalty_factor_out_of_range(self, penalty_factor):
        with pytest.raises(ValueError, match=f"penalty_factor={penalty_factor}"):
            modulation_coefficients(scalars({"a": 1.0}), scalars({"a": 1.0}), penalty_factor=penalty_factor)
