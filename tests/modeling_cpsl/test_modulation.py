"""METHOD 8 against plain Python, in one process and in two."""

import copy
import functools
import itertools
import logging
import math
import textwrap
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_cpsl.modulation import GradientModulator, check_modulation_arguments, modulation_coefficients


EPS = 1e-8
DAMPED_TIE = 1 - math.tanh(1.0)  # the largest coefficient below 1 at alpha = 1: 0.238


def reference_coefficients(errors, norms, alpha=1.0, penalty_factor=0.5, modulate=True, penalize=True):
    """METHOD 8 with numbers and loops; None where a near-tie would leave the answer to the rounding."""
    coefficients = {}
    for name, error in errors.items():
        other_errors = [e for n, e in errors.items() if n != name]
        other_norms = [g for n, g in norms.items() if n != name]
        coefficients[name] = 1.0
        if not other_errors:
            continue
        score = 1 / (error + EPS)
        mean_of_others = sum(1 / (e + EPS) for e in other_errors) / len(other_errors)
        if all(e == error for e in other_errors):
            is_better = False
        elif math.isclose(score, mean_of_others, rel_tol=1e-9):
            return None
        else:
            is_better = score > mean_of_others
        if modulate and is_better:
            coefficients[name] = 1 - math.tanh(alpha * max(score / (mean_of_others + EPS), 0))
        mean_norm = sum(other_norms) / len(other_norms)
        if not all(g == norms[name] for g in other_norms) and math.isclose(norms[name], mean_norm, rel_tol=1e-9):
            return None
        has_larger_norm = norms[name] > mean_norm and not all(g == norms[name] for g in other_norms)
        if penalize and all(error < e for e in other_errors) and has_larger_norm:
            coefficients[name] *= penalty_factor
    return coefficients


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


def scalars(values, dtype=torch.float64):
    return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}


def floats_of(tensors):
    return {name: tensor.item() for name, tensor in tensors.items()}


# few distinct values, so that ties and exact zeros are drawn often
magnitudes = st.one_of(st.sampled_from([0.0, 0.1, 0.7, 0.7, 1.3]), st.floats(0, 6))
alphas = st.sampled_from([0.0, 0.1, 1.0, 3.0])
penalty_factors = st.floats(0.01, 0.99)


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
        """METHOD 8 [fact]: and half of it under conflict."""
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enhance": True, "modulate": False}, "enhance=True needs modulate=True"),
        ({"start_epoch": -1}, "start_epoch=-1"),
        ({"start_epoch": 3, "end_epoch": 2}, "start_epoch=3, end_epoch=2"),
        ({"target": "weights"}, "target='weights' must be one of gradient, update"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_modulation_arguments(**arguments)
    with pytest.raises(ValueError, match=message):
        GradientModulator(groups_with_gradients(), **arguments)


def group(*shapes, seed=0, dtype=torch.float32):
    """Parameters with gradients that have a mean and a deviation."""
    generator = torch.Generator().manual_seed(seed)
    parameters = []
    for shape in shapes:
        parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        parameter.grad = (0.3 + 0.1 * torch.randn(shape, generator=generator)).to(dtype)
        parameters.append(parameter)
    return parameters


def groups_with_gradients(dtype=torch.float32):
    return {"acoustic": group((4, 3), (4,), dtype=dtype), "visual": group((5, 2), (5,), (1,), seed=1, dtype=dtype)}


def gradients_of(groups):
    return {name: [parameter.grad.clone() for parameter in parameters] for name, parameters in groups.items()}


def assert_equal(actual, expected):
    """Nested lists and dicts of tensors, bit for bit."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def reference_norms(gradients):
    return {name: sum(g.pow(2).sum().sqrt().item() for g in of) / len(of) for name, of in gradients.items()}


def observe(modulator, acoustic, visual, count=1):
    sums = {"acoustic": torch.tensor(acoustic), "visual": torch.tensor(visual)}
    modulator.observe(sums, count)


class TestGradients:
    def test_are_multiplied_by_the_coefficients(self):
        groups = groups_with_gradients()
        before = gradients_of(groups)
        modulator = GradientModulator(groups, enhance=False, alpha=0.4, penalty_factor=0.6)
        observe(modulator, 2.0, 2.4, count=4)
        statistics = floats_of(modulator.step(0))

        norms = reference_norms(before)
        expected = reference_coefficients({"acoustic": 0.5, "visual": 0.6}, norms, 0.4, 0.6)
        assert expected["acoustic"] < 1
        for name, parameters in groups.items():
            assert statistics[f"coefficient_{name}"] == pytest.approx(expected[name], rel=1e-6)
            assert statistics[f"grad_norm_{name}"] == pytest.approx(norms[name], rel=1e-6)
            assert statistics[f"damped_{name}"] == (expected[name] < 1)
            for parameter, gradient in zip(parameters, before[name], strict=True):
                torch.testing.assert_close(parameter.grad, gradient * expected[name])
        assert statistics["error_acoustic"] == pytest.approx(0.5)
        assert statistics["error_visual"] == pytest.approx(0.6)
        assert statistics["conflict_acoustic"] == (norms["acoustic"] > norms["visual"])
        assert statistics["imbalance"] == pytest.approx(expected["visual"] - expected["acoustic"], rel=1e-6)

    def test_penalty_alone(self):
        groups = groups_with_gradients()
        before = gradients_of(groups)
        norms = reference_norms(before)
        better, worse = sorted(groups, key=norms.get, reverse=True)
        modulator = GradientModulator(groups, modulate=False, enhance=False, penalty_factor=0.25)
        modulator.observe(scalars({better: 1.0, worse: 2.0}), 4)
        modulator.step(0)
        assert_equal(gradients_of(groups), {**before, better: [g * 0.25 for g in before[better]]})

    def test_errors_are_pooled_over_samples(self):
        """Micro-batches of 3 and 1: the mean over 4 samples, not the mean of two means."""
        modulator = GradientModulator(groups_with_gradients())
        observe(modulator, 3.0, 1.5, count=3)
        observe(modulator, 2.0, 0.1, count=torch.tensor(1))
        statistics = modulator.step(0)
        assert statistics["error_acoustic"].item() == pytest.approx(5 / 4)
        assert statistics["error_visual"].item() == pytest.approx(1.6 / 4)

    def test_missing_modalities_do_not_count(self):
        modulator = GradientModulator(groups_with_gradients())
        observe(modulator, 3.0, 0.0, count={"acoustic": 3, "visual": 0})
        observe(modulator, 1.0, 0.5, count={"acoustic": torch.tensor(1), "visual": 2})
        statistics = modulator.step(0)
        assert statistics["error_acoustic"].item() == pytest.approx(1.0)
        assert statistics["error_visual"].item() == pytest.approx(0.25)

    def test_a_modality_missing_from_the_whole_step_is_not_compared(self):
        groups = groups_with_gradients()
        before = gradients_of(groups)
        modulator = GradientModulator(groups, enhance=False)
        observe(modulator, 3.0, 0.0, count={"acoustic": 3, "visual": 0})
        statistics = modulator.step(0)
        assert statistics["error_visual"].isnan()
        assert_equal(gradients_of(groups), before)
        observe(modulator, 3.0, 1.5, count=3)
        modulator.step(0)
        assert modulator.pop_statistics()["error_visual"].item() == 0.5

    def test_observe_names_what_is_missing(self):
        modulator = GradientModulator(groups_with_gradients())
        error = torch.tensor(1.0)
        with pytest.raises(ValueError, match=r"error_sums lacks \['visual'\]"):
            modulator.observe({"acoustic": error}, 1)
        with pytest.raises(ValueError, match=r"count lacks \['acoustic'\]"):
            modulator.observe({"acoustic": error, "visual": error}, {"visual": 1})
        modulator.observe({"acoustic": error, "visual": error, "text": error}, 1)

    def test_step_needs_observations_of_its_own(self):
        modulator = GradientModulator(groups_with_gradients())
        with pytest.raises(RuntimeError, match="call observe"):
            modulator.step(0)
        observe(modulator, 1.0, 2.0)
        modulator.step(0)
        with pytest.raises(RuntimeError, match="call observe"):
            modulator.step(0)

    @pytest.mark.parametrize(
        ("epoch", "is_inside"),
        [(0, False), (0.99, False), (1, True), (1.5, True), (2, True), (2.99, True), (3, False)],
    )
    @pytest.mark.parametrize("target", ["gradient", "update"])
    def test_window_includes_both_ends_and_leaves_the_rest_alone(self, epoch, is_inside, target):
        groups = groups_with_gradients()
        before = gradients_of(groups)
        modulator = GradientModulator(groups, start_epoch=1, end_epoch=2, target=target)
        modulator.attach(torch.optim.SGD(itertools.chain(*groups.values()), lr=0.1))
        observe(modulator, 1.0, 2.0)
        statistics = floats_of(modulator.step(epoch))
        unchanged = all(
            torch.equal(p.grad, g) for name, of in groups.items() for p, g in zip(of, before[name], strict=True)
        )
        assert unchanged is not is_inside
        assert (statistics["coefficient_acoustic"] < 1) is is_inside
        assert statistics["damped_acoustic"] == is_inside
        assert statistics["error_acoustic"] == 1
        assert statistics["grad_norm_acoustic"] == pytest.approx(reference_norms(before)["acoustic"])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_every_floating_dtype(self, dtype):
        groups = groups_with_gradients(dtype)
        before = gradients_of(groups)
        modulator = GradientModulator(groups, enhance=False)
        observe(modulator, 1.0, 1.5)
        statistics = modulator.step(0)
        assert statistics["grad_norm_visual"].item() == pytest.approx(
            reference_norms({"visual": [g.double() for g in before["visual"]]})["visual"], rel=1e-6
        )
        for parameter, gradient in zip(groups["acoustic"], before["acoustic"], strict=True):
            assert parameter.grad.dtype == dtype
            torch.testing.assert_close(parameter.grad, gradient * statistics["coefficient_acoustic"].to(dtype))

    def test_fp16_norms_do_not_overflow(self):
        groups = {"acoustic": group((2000,), dtype=torch.float16), "visual": group((3,), dtype=torch.float16)}
        groups["acoustic"][0].grad.fill_(60000)
        modulator = GradientModulator(groups, enhance=False)
        observe(modulator, 2.0, 1.0)
        assert modulator.step(0)["grad_norm_acoustic"].item() == pytest.approx(60000 * math.sqrt(2000), rel=1e-5)

    def test_three_modalities(self):
        groups = {**groups_with_gradients(), "timing": group((3, 3), seed=2)}
        before = gradients_of(groups)
        modulator = GradientModulator(groups, enhance=False)
        modulator.observe(scalars({"acoustic": 2.0, "visual": 1.0, "timing": 1.8}), 2)
        statistics = modulator.step(0)
        expected = reference_coefficients(
            {"acoustic": 1.0, "visual": 0.5, "timing": 0.9}, reference_norms(before), modulate=True
        )
        assert {name: statistics[f"coefficient_{name}"].item() for name in groups} == pytest.approx(expected, rel=1e-6)
        assert statistics["imbalance"].item() == pytest.approx(1 - expected["visual"])


class TestEnhancement:
    shape = (400, 500)

    def noise(self, errors=(1.0, 1.5), steps=1, seed=0):
        """The noise of the last of some steps on the same gradients, and the gradient before them."""
        groups = {"acoustic": group(self.shape, (7, 3)), "visual": group(self.shape, seed=1)}
        before = gradients_of(groups)
        modulator = GradientModulator(groups, penalize=False, seed=seed)
        for _ in range(steps):
            for name, parameters in groups.items():
                for parameter, gradient in zip(parameters, before[name], strict=True):
                    parameter.grad.copy_(gradient)
            observe(modulator, *errors)
            statistics = modulator.step(0)
        noise = {
            name: [
                p.grad - g * statistics[f"coefficient_{name}"] for p, g in zip(parameters, before[name], strict=True)
            ]
            for name, parameters in groups.items()
        }
        return noise, before

    def test_has_the_deviation_of_the_gradient_before_damping(self):
        noise, before = self.noise()
        for name in noise:  # visual is not damped and gets its noise too
            for of_parameter, gradient in zip(noise[name][:1], before[name][:1], strict=True):
                deviation = (gradient - gradient.mean()).pow(2).mean().sqrt()
                assert deviation == pytest.approx(0.1, rel=0.01)
                assert of_parameter.std().item() == pytest.approx(deviation.item(), rel=0.01)
                assert abs(of_parameter.mean().item()) < 5 * deviation / math.sqrt(gradient.numel())
                excess = (of_parameter / deviation).pow(4).mean() - 3  # 0 for a normal distribution
                assert abs(excess.item()) < 0.1

    def test_does_not_depend_on_the_coefficient(self):
        torch.testing.assert_close(self.noise((1.0, 1.5))[0], self.noise((1.0, 9.0))[0])
        torch.testing.assert_close(self.noise((1.0, 1.5))[0], self.noise((2.0, 1.0))[0])

    def test_is_the_same_for_a_seed_and_step_whatever_torch_s_own_generator_does(self):
        torch.manual_seed(1)
        first, _ = self.noise(seed=3)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        second, _ = self.noise(seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert_equal(first, second)

    def test_differs_by_step_seed_modality_and_parameter(self):
        noises = [self.noise(seed=0)[0], self.noise(seed=1)[0], self.noise(steps=2)[0], self.noise(seed=2**32)[0]]
        drawn = [noise[name][0].flatten() for noise in noises for name in noise]
        for one, other in itertools.combinations(drawn, 2):
            correlation = torch.corrcoef(torch.stack([one, other]))[0, 1]
            assert abs(correlation) < 5 / math.sqrt(len(one))

    def test_a_one_element_gradient_gets_none(self):
        groups = {"acoustic": group((1,), (1, 1), ()), "visual": group((3,))}
        before = gradients_of(groups)
        modulator = GradientModulator(groups)
        observe(modulator, 2.0, 1.0)
        modulator.step(0)
        assert_equal(gradients_of(groups)["acoustic"], before["acoustic"])

    def test_off_leaves_an_undamped_modality_bit_for_bit(self):
        groups = groups_with_gradients()
        before = gradients_of(groups)
        modulator = GradientModulator(groups, enhance=False)
        observe(modulator, 1.0, 2.0)
        modulator.step(0)
        assert_equal(gradients_of(groups)["visual"], before["visual"])

    @pytest.mark.parametrize(("size", "dtype"), [(1e25, torch.float32), (1e38, torch.float32), (1e300, torch.float64)])
    def test_huge_finite_gradients_stay_finite(self, size, dtype):
        groups = {"acoustic": group((2,), dtype=dtype), "visual": group((2,))}
        groups["acoustic"][0].grad = torch.tensor([size, -size / 2], dtype=dtype)
        modulator = GradientModulator(groups)
        observe(modulator, 1.0, 2.0)
        statistics = modulator.step(0)
        assert groups["acoustic"][0].grad.isfinite().all()
        assert 0 < statistics["coefficient_acoustic"] < 1


class TestGroups:
    def test_overlap_is_refused_by_name(self):
        shared = nn.Linear(2, 3)
        groups = {"acoustic": nn.Sequential(shared, nn.Linear(3, 1)), "visual": [shared.weight], "text": group((1,))}
        with pytest.raises(ValueError, match=r"groups 'acoustic' and 'visual' share a parameter of shape \(3, 2\)"):
            GradientModulator(groups)

    def test_empty_groups_are_refused_by_name(self):
        with pytest.raises(ValueError, match="group 'visual' has no parameters"):
            GradientModulator({"acoustic": nn.Linear(1, 1), "visual": nn.ReLU()})
        with pytest.raises(ValueError, match="groups is empty"):
            GradientModulator({})

    @pytest.mark.parametrize("not_parameters", [["acoustic.weight"], torch.zeros(2), [nn.Linear(1, 1)]])
    def test_only_parameters(self, not_parameters):
        with pytest.raises(TypeError, match="group 'acoustic' holds a"):
            GradientModulator({"acoustic": not_parameters})

    def test_a_tied_parameter_counts_once_in_its_group(self):
        parameters = group((2, 2))
        modulator = GradientModulator({"acoustic": parameters * 2, "visual": iter(group((3,)))}, enhance=False)
        before = parameters[0].grad.clone()
        observe(modulator, 1.0, 2.0)
        statistics = modulator.step(0)
        torch.testing.assert_close(parameters[0].grad, before * statistics["coefficient_acoustic"])

    def test_frozen_parameters_and_those_without_gradient_are_skipped(self):
        groups = groups_with_gradients()
        frozen, unused = groups["visual"][0], groups["visual"][1]
        frozen.requires_grad_(False)
        stale = frozen.grad.clone()
        unused.grad = None
        used = groups["visual"][2].grad.clone()
        modulator = GradientModulator(groups, enhance=False)
        observe(modulator, 2.0, 1.0)
        statistics = modulator.step(0)
        assert_equal(frozen.grad, stale)
        assert unused.grad is None
        torch.testing.assert_close(groups["visual"][2].grad, used * statistics["coefficient_visual"])
        assert statistics["grad_norm_visual"].item() == pytest.approx(used.norm().item())

    def test_a_group_without_any_gradient_warns_once(self):
        groups = groups_with_gradients()
        for parameter in groups["visual"]:
            parameter.grad = None
        modulator = GradientModulator(groups)
        with pytest.warns(UserWarning, match="no parameter of 'visual' has a gradient"):
            observe(modulator, 1.0, 2.0)
            statistics = modulator.step(0)
        assert statistics["grad_norm_visual"] == 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            observe(modulator, 1.0, 2.0)
            assert modulator.step(0)["coefficient_acoustic"] < 1

    def test_one_modality_is_left_alone_with_one_log_line(self, caplog):
        groups = {"acoustic": group((4, 3))}
        before = gradients_of(groups)
        with caplog.at_level(logging.WARNING, logger="modeling_cpsl.modulation"):
            modulator = GradientModulator(groups)
            for _ in range(3):
                observe(modulator, 1.0, 2.0)
                statistics = floats_of(modulator.step(0))
        assert [record.message for record in caplog.records] == [
            "Gradient modulation is off: it compares modalities and got only acoustic."
        ]
        assert_equal(gradients_of(groups), before)
        assert statistics["coefficient_acoustic"] == 1
        assert statistics["error_acoustic"] == 1
        assert statistics["imbalance"] == 0

    def test_switched_off_gives_statistics_only(self, caplog):
        groups = groups_with_gradients()
        before = gradients_of(groups)
        modulator = GradientModulator(groups, modulate=False, penalize=False, enhance=False)
        observe(modulator, 1.0, 2.0)
        assert modulator.step(0)["coefficient_acoustic"] == 1
        assert_equal(gradients_of(groups), before)
        assert not caplog.records


class TestStatistics:
    def test_means_over_the_steps_since_the_last_call(self):
        modulator = GradientModulator(groups_with_gradients(), enhance=False)
        steps = []
        for acoustic, visual in [(1.0, 2.0), (3.0, 2.0), (1.0, 1.5)]:
            observe(modulator, acoustic, visual)
            steps.append(floats_of(modulator.step(0)))
        means = floats_of(modulator.pop_statistics())
        for key in means.keys() - {"imbalance"}:
            assert means[key] == pytest.approx(sum(step[key] for step in steps) / 3, rel=1e-6)
        assert means["damped_acoustic"] == pytest.approx(2 / 3)
        difference = abs(means["coefficient_acoustic"] - means["coefficient_visual"])
        assert means["imbalance"] == pytest.approx(difference, rel=1e-5)
        assert modulator.pop_statistics()["error_acoustic"].isnan()
        observe(modulator, 5.0, 2.0)
        modulator.step(0)
        assert modulator.pop_statistics()["error_acoustic"] == 5

    def test_state_dict_continues_noise_and_statistics(self, tmp_path):
        def run(modulator, groups, steps):
            for step in steps:
                for name, of in groups_with_gradients().items():
                    for parameter, fresh in zip(groups[name], of, strict=True):
                        parameter.grad = fresh.grad
                observe(modulator, 1.0 + step, 2.5)
                modulator.step(0)

        whole_groups = groups_with_gradients()
        whole = GradientModulator(whole_groups, seed=5)
        run(whole, whole_groups, range(4))

        groups = groups_with_gradients()
        first = GradientModulator(groups, seed=5)
        run(first, groups, range(2))
        torch.save(first.state_dict(), tmp_path / "modulator.pt")
        run(first, groups, range(7, 9))  # must not reach what was saved
        second = GradientModulator(groups, seed=5)
        second.load_state_dict(torch.load(tmp_path / "modulator.pt", weights_only=True))
        run(second, groups, range(2, 4))

        assert_equal(gradients_of(groups), gradients_of(whole_groups))
        assert_equal(second.pop_statistics(), whole.pop_statistics())

    def test_loading_forgets_what_was_observed(self):
        modulator = GradientModulator(groups_with_gradients())
        state = modulator.state_dict()
        observe(modulator, 1.0, 2.0)
        modulator.load_state_dict(state)
        with pytest.raises(RuntimeError, match="call observe"):
            modulator.step(0)

    def test_state_of_other_modalities_is_refused(self):
        state = GradientModulator(groups_with_gradients()).state_dict()
        other = GradientModulator({"text": group((2,)), "visual": group((2,))})
        with pytest.raises(ValueError, match=r"\['acoustic', 'visual'\].*\['text', 'visual'\]"):
            other.load_state_dict(state)

    def test_nothing_keeps_the_graph(self):
        modulator = GradientModulator(groups_with_gradients())
        error = torch.tensor(1.0, requires_grad=True)
        modulator.observe({"acoustic": error * 2, "visual": error}, 1)
        assert not any(value.requires_grad for value in modulator.step(0).values())


class NoHostRead(TorchDispatchMode):
    """Fails on what reads a tensor's value on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in {
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.item,
            torch.ops.aten.equal,
            torch.ops.aten.nonzero,
            torch.ops.aten.is_nonzero,
        }, func
        return func(*args, **(kwargs or {}))


class TestNoHostSync:
    def run(self, groups, device="cpu", **options):
        modulator = GradientModulator(groups, **options)
        optimizer = torch.optim.SGD(itertools.chain(*groups.values()), lr=0.1)
        modulator.attach(optimizer)
        errors = {name: torch.zeros((), device=device) for name in groups}
        for count in (4, {"acoustic": 3, "visual": 0}, torch.ones((), device=device)):
            modulator.observe(errors, count)
        modulator.step(0, grad_scale=torch.ones((), device=device))
        optimizer.step()
        return modulator.pop_statistics()

    @pytest.mark.parametrize("target", ["gradient", "update"])
    def test_no_value_is_read(self, target):
        groups = groups_with_gradients()
        with NoHostRead():
            statistics = self.run(groups, target=target)
            with pytest.raises(AssertionError, match="_local_scalar_dense"):
                statistics["error_visual"].item()

    @pytest.mark.parametrize("target", ["gradient", "update"])
    def test_no_value_moves_to_the_host(self, target):
        """Meta tensors have no values, so reading one or copying it to the CPU raises; GE has no generator there."""
        groups = {
            name: [nn.Parameter(torch.zeros(p.shape, device="meta")) for p in of]
            for name, of in groups_with_gradients().items()
        }
        for parameter in itertools.chain(*groups.values()):
            parameter.grad = torch.zeros_like(parameter)
        statistics = self.run(groups, device="meta", target=target, enhance=False)
        assert statistics["error_visual"].device.type == "meta"


class TestGradScaler:
    def model(self):
        torch.manual_seed(0)
        model = TwoEncoders()
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(self, modulator, model, optimizer, batch, scaler):
        errors, loss = model(batch)
        scaler.scale(loss).backward()
        modulator.observe({name: error.sum() for name, error in errors.items()}, count=len(batch["labels"]))
        statistics = modulator.step(0, grad_scale=scaler.get_scale())
        scaler.unscale_(optimizer)
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return statistics, gradients

    def test_noise_and_norms_are_those_without_scaler(self):
        """A power of two scales the gradients exactly, so everything must agree bit for bit."""
        results = []
        for enabled in (True, False):
            model, optimizer = self.model()
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled)
            modulator = GradientModulator(model.encoders(), alpha=0.5)
            results.append(self.train_step(modulator, model, optimizer, make_batch(), scaler))
        assert_equal(results[0], results[1])
        assert min(results[0][0][f"coefficient_{name}"] for name in ("acoustic", "visual")) < 1

    @pytest.mark.parametrize("target", ["gradient", "update"])
    @pytest.mark.parametrize("fused", [False, True])
    def test_an_overflow_is_skipped_and_forgotten(self, target, fused):
        model, _ = self.model()
        # fused AdamW is called by the scaler even for a step to skip, others are not
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        modulator = GradientModulator(model.encoders(), target=target)
        modulator.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        train_step = functools.partial(self.train_step, modulator, model, optimizer, scaler=scaler)
        train_step(make_batch())

        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        hook = model.acoustic[0].weight.register_hook(lambda grad: grad * math.inf)
        statistics, _ = train_step(make_batch())
        hook.remove()
        assert_equal(dict(model.named_parameters()), {name: nn.Parameter(w) for name, w in weights.items()})
        assert scaler.get_scale() == 2.0**11
        assert not statistics["grad_norm_acoustic"].isfinite()
        assert all(statistics[f"coefficient_{name}"].isfinite() for name in ("acoustic", "visual"))

        train_step(make_batch())
        assert any(not torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert all(value.isfinite() for value in modulator.pop_statistics().values())

    def test_an_infinite_norm_is_no_conflict(self):
        groups = groups_with_gradients()
        groups["acoustic"][0].grad[0, 0] = math.inf
        modulator = GradientModulator(groups)
        observe(modulator, 1.0, 2.0)
        statistics = modulator.step(0)
        assert statistics["conflict_acoustic"] == 0
        assert not groups["acoustic"][0].grad.isfinite().all()  # the scaler still finds it


class TestUpdateTarget:
    def path(self, optimizer_class, target, steps=30, **options):
        """Lengths of the two modalities' paths in a regression where acoustic's coefficient is 0.238 at every step."""
        torch.manual_seed(0)
        features, teacher = torch.randn(64, 6), torch.randn(6)
        weights = {"acoustic": nn.Parameter(torch.zeros(6)), "visual": nn.Parameter(torch.zeros(6))}
        optimizer = optimizer_class(weights.values(), **options)
        modulator = GradientModulator(
            {name: [weight] for name, weight in weights.items()}, penalize=False, enhance=False, target=target
        )
        modulator.attach(optimizer)
        lengths = dict.fromkeys(weights, 0.0)
        for _ in range(steps):
            before = {name: weight.detach().clone() for name, weight in weights.items()}
            sum((features @ (weight - teacher)).pow(2).mean() for weight in weights.values()).backward()
            observe(modulator, 1.0, 1.000001)
            assert modulator.step(0)["coefficient_acoustic"].item() == pytest.approx(DAMPED_TIE, rel=1e-4)
            optimizer.step()
            optimizer.zero_grad()
            for name, weight in weights.items():
                lengths[name] += (weight.detach() - before[name]).norm().item()
        return lengths["acoustic"] / lengths["visual"]

    def test_acts_under_both_optimizers_where_the_gradient_target_acts_under_one(self):
        sgd = functools.partial(self.path, torch.optim.SGD, lr=0.01)
        adamw = functools.partial(self.path, torch.optim.AdamW, lr=0.001, weight_decay=0.0)
        assert 0.238 < sgd("gradient") < 0.35
        assert adamw("gradient") == pytest.approx(1.0, abs=0.001)  # METHOD 8 [fact]
        assert 0.238 < sgd("update") < 0.35
        assert 0.237 < adamw("update") < 0.35

    def test_equals_the_gradient_target_under_plain_sgd(self):
        sgd = functools.partial(self.path, torch.optim.SGD, lr=0.01)
        assert sgd("update") == pytest.approx(sgd("gradient"), rel=1e-5)

    def step(self, modulator, optimizer, groups):
        """One step with a known coefficient: what each parameter was, and what the optimizer alone makes of it."""
        parameters = list(itertools.chain(*groups.values()))
        before = [p.detach().clone() for p in parameters]
        observe(modulator, 1.0, 1.5)
        coefficient = modulator.step(0)["coefficient_acoustic"]
        optimizer.step()
        after = [p.detach().clone() for p in parameters]
        return before, after, coefficient

    def expected(self, groups):
        parameters = [nn.Parameter(p.detach().clone()) for p in itertools.chain(*groups.values())]
        for twin, parameter in zip(parameters, itertools.chain(*groups.values()), strict=True):
            twin.grad = parameter.grad.clone()
        torch.optim.AdamW(parameters, lr=0.1).step()
        return [p.detach() for p in parameters]

    def check(self, groups, result, unmodulated):
        before, after, coefficient = result
        num_acoustic = len(groups["acoustic"])
        for i, (old, new, free) in enumerate(zip(before, after, unmodulated, strict=True)):
            if i < num_acoustic:
                torch.testing.assert_close(new, old + coefficient * (free - old), rtol=1e-5, atol=1e-6)
                assert not torch.equal(new, free)
            else:
                assert_equal(new, free)

    @pytest.mark.parametrize("fused", [False, True])
    def test_scales_the_step_weight_decay_included(self, fused):
        groups = groups_with_gradients()
        unmodulated = self.expected(groups)
        gradients = gradients_of(groups)
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1, fused=fused)
        modulator = GradientModulator(groups, enhance=False, target="update")
        modulator.attach(optimizer)
        modulator.attach(optimizer)  # a second time must not scale twice
        result = self.step(modulator, optimizer, groups)
        assert_equal(gradients_of(groups), gradients)
        self.check(groups, result, unmodulated)

    def test_through_accelerate(self):
        groups = groups_with_gradients()
        unmodulated = self.expected(groups)
        optimizer = Accelerator(cpu=True).prepare(torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1))
        modulator = GradientModulator(groups, enhance=False, target="update")
        modulator.attach(optimizer)
        self.check(groups, self.step(modulator, optimizer, groups), unmodulated)

    def test_two_optimizers(self):
        groups = groups_with_gradients()
        unmodulated = self.expected(groups)
        optimizers = [torch.optim.AdamW(parameters, lr=0.1) for parameters in groups.values()]
        modulator = GradientModulator(groups, enhance=False, target="update")
        for optimizer in optimizers:
            modulator.attach(optimizer)

        class Both:
            def step(self):
                for optimizer in reversed(optimizers):
                    optimizer.step()

        self.check(groups, self.step(modulator, Both(), groups), unmodulated)

    def test_outside_the_window_the_step_is_the_optimizer_s_own(self):
        groups = groups_with_gradients()
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1)
        modulator = GradientModulator(groups, enhance=False, target="update", end_epoch=0)
        modulator.attach(optimizer)
        self.step(modulator, optimizer, groups)
        twin = {name: [nn.Parameter(p.detach().clone()) for p in parameters] for name, parameters in groups.items()}
        twin_optimizer = torch.optim.AdamW(itertools.chain(*twin.values()), lr=0.1)
        twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for one, other in zip(itertools.chain(*groups.values()), itertools.chain(*twin.values()), strict=True):
            other.grad = one.grad.clone()
        observe(modulator, 1.0, 1.5)
        modulator.step(1)
        optimizer.step()
        twin_optimizer.step()
        assert_equal(groups, twin)

    def test_a_coefficient_holds_for_one_step(self):
        """An optimizer outlives its modulator in a second training: what stays attached must not scale its steps."""
        groups = groups_with_gradients()
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1)
        former, modulator = (GradientModulator(groups, enhance=False, target="update") for _ in range(2))
        former.attach(optimizer)
        self.step(former, optimizer, groups)
        optimizer.state.clear()
        unmodulated = self.expected(groups)
        modulator.attach(optimizer)
        self.check(groups, self.step(modulator, optimizer, groups), unmodulated)

    def test_the_coefficient_of_a_skipped_step_is_dropped(self):
        groups = groups_with_gradients()
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1)
        modulator = GradientModulator(groups, enhance=False, target="update", end_epoch=0)
        modulator.attach(optimizer)
        observe(modulator, 1.0, 1.5)
        modulator.step(0)  # and a GradScaler skips the optimizer's
        unmodulated = self.expected(groups)
        observe(modulator, 1.0, 1.5)
        modulator.step(1)
        optimizer.step()
        assert_equal([p.detach() for p in itertools.chain(*groups.values())], unmodulated)

    def test_an_optimizer_of_other_parameters_is_refused(self):
        modulator = GradientModulator(groups_with_gradients(), target="update")
        with pytest.raises(ValueError, match="SGD holds no parameter of acoustic, visual"):
            modulator.attach(torch.optim.SGD(group((2,)), lr=0.1))

    def test_needs_an_optimizer(self):
        modulator = GradientModulator(groups_with_gradients(), target="update")
        observe(modulator, 1.0, 2.0)
        with pytest.raises(RuntimeError, match="call attach"):
            modulator.step(0)


def test_the_documented_loop_runs_and_has_at_most_ten_lines():
    code = textwrap.dedent(GradientModulator.__doc__.split("```python")[1].split("```")[0]).strip()
    assert len(code.splitlines()) <= 10
    torch.manual_seed(0)
    model = TwoEncoders()
    batch = make_batch()
    start = [parameter.detach().clone() for parameter in model.parameters()]

    def call(batch, labels):
        errors, loss = model(batch)
        return loss, errors

    call.acoustic, call.visual = model.acoustic, model.visual
    exec(
        code,
        {
            "GradientModulator": GradientModulator,
            "model": call,
            "loader": [(batch, batch["labels"])],
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        },
    )
    assert all(not torch.equal(old, new) for old, new in zip(start, model.parameters(), strict=True))


class TwoEncoders(nn.Module):
    """A regression with a head a modality; sizes that two processes cannot share evenly."""

    def __init__(self):
        super().__init__()
        self.acoustic = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
        self.visual = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 1))

    def encoders(self):
        return {"acoustic": self.acoustic, "visual": self.visual}

    def forward(self, batch):
        predictions = {name: encoder(batch[name])[:, 0] for name, encoder in self.encoders().items()}
        labels = batch["labels"]
        loss = (sum(predictions.values()) - labels).pow(2).mean()
        loss = loss + sum((prediction - labels).pow(2).mean() for prediction in predictions.values())
        return {name: (prediction - labels).detach().abs() for name, prediction in predictions.items()}, loss


def make_batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, generator=generator)
    return {"acoustic": draw(size, 5), "visual": draw(size, 4), "labels": 2 * draw(size)}


NUM_STEPS = 6


def train(model, rank=0, world_size=1, num_micro_batches=1, wrap=lambda model: model, target="gradient"):
    """A few modulated steps over batches of 8, cut over ranks and micro-batches; returns statistics and weights."""
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    modulator = GradientModulator(model.encoders(), target=target)
    modulator.attach(optimizer)
    history = []
    for step in range(NUM_STEPS):
        batch = make_batch(seed=step)
        mine = {key: value[rank::world_size].chunk(num_micro_batches) for key, value in batch.items()}
        for i in range(num_micro_batches):
            micro_batch = {key: chunks[i] for key, chunks in mine.items()}
            errors, loss = wrapped(micro_batch)
            (loss / num_micro_batches).backward()
            modulator.observe({name: error.sum() for name, error in errors.items()}, len(micro_batch["labels"]))
        history.append(floats_of(modulator.step(0)))
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
    weights = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }
    return {"statistics": history, "weights": weights}


def shard(model):
    for encoder in model.encoders().values():
        fully_shard(encoder)
    fully_shard(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


def make_model():
    torch.manual_seed(0)
    return TwoEncoders()


RUNS = {
    "ddp": {"wrap": DistributedDataParallel},
    "ddp_accumulated": {"wrap": DistributedDataParallel, "num_micro_batches": 2},
    "fsdp2": {"wrap": shard},
    "fsdp2_update": {"wrap": shard, "target": "update"},
}


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {name: train(make_model(), rank, dist.get_world_size(), **options) for name, options in RUNS.items()}
    torch.save({"world_size": dist.get_world_size(), **results}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    mp.spawn(run_rank, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


class TestTwoProcesses:
    def test_two_ran(self, two_processes):
        assert [result["world_size"] for result in two_processes] == [2, 2]

    @pytest.mark.parametrize("run", RUNS)
    def test_equal_one_process(self, two_processes, run):
        expected = train(make_model(), target=RUNS[run].get("target", "gradient"))
        for result in two_processes:
            for step, expected_step in zip(result[run]["statistics"], expected["statistics"], strict=True):
                assert step == pytest.approx(expected_step, rel=1e-5, abs=1e-6)
            torch.testing.assert_close(result[run]["weights"], expected["weights"], rtol=1e-4, atol=1e-6)
        coefficients = {
            step[f"coefficient_{name}"] for step in expected["statistics"] for name in ("acoustic", "visual")
        }
        assert len(coefficients) > NUM_STEPS  # one side was damped at each step
        assert {step[f"conflict_{name}"] for step in expected["statistics"] for name in ("acoustic", "visual")} == {
            0,
            1,
        }

    @pytest.mark.parametrize("run", RUNS)
    def test_ranks_agree_bit_for_bit(self, two_processes, run):
        assert two_processes[0][run]["statistics"] == two_processes[1][run]["statistics"]
        assert_equal(two_processes[0][run]["weights"], two_processes[1][run]["weights"])


def test_micro_batches_equal_one_batch():
    whole, cut = train(make_model()), train(make_model(), num_micro_batches=4)
    for step, expected in zip(cut["statistics"], whole["statistics"], strict=True):
        assert step == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(cut["weights"], whole["weights"], rtol=1e-4, atol=1e-6)
