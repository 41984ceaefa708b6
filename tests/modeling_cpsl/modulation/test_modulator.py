"""Gradient modulation against plain Python."""

import itertools
import logging
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modulation_cases import (
    alphas,
    assert_equal,
    floats_of,
    gradients_of,
    group,
    groups_with_gradients,
    magnitudes,
    observe,
    penalty_factors,
    reference_coefficients,
    reference_norms,
    scalars,
)
from torch import nn

from modeling_cpsl.modulation import GradientModulator, modulation_coefficients


class TestGradients:
    @given(
        errors=st.tuples(magnitudes, magnitudes),
        alpha=alphas,
        penalty_factor=penalty_factors,
        modulate=st.booleans(),
        penalize=st.booleans(),
    )
    def test_the_documented_function_gives_the_coefficients(self, errors, alpha, penalty_factor, modulate, penalize):
        options = {"alpha": alpha, "penalty_factor": penalty_factor, "modulate": modulate, "penalize": penalize}
        modulator = GradientModulator(groups_with_gradients(), enhance=False, **options)
        observe(modulator, *errors)
        step = modulator.step(0)
        by_modality = [
            {name: step[f"{kind}_{name}"] for name in modulator.modalities}
            for kind in ("error", "grad_norm", "coefficient")
        ]
        assert_equal(modulation_coefficients(*by_modality[:2], **options), by_modality[2])

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
