"""Each rule against plain Python on given statistics, and what all rules have in common."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from modeling_cpsl.modulation import RULES, GradientModulator, StepStatistics
from modeling_cpsl.modulation.rules import ConflictAware
from modeling_cpsl.modulation.rules.controls import HISTORY


def statistics(**values):
    """Statistics of a step; lists become tensors."""
    size = len(next(value for value in values.values() if isinstance(value, list)))
    defaults = {"scores": [0.5] * size, "errors": [1.0] * size, "grad_norms": [1.0] * size, "contributions": None}
    defaults |= {"squared_errors": [1.0] * size, "epoch": 0.0}
    tensors = {
        name: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
        for name, value in (defaults | values).items()
    }
    return StepStatistics(**tensors)


def coefficients(name, options=None, **values):
    return RULES[name](**(options or {}))(statistics(**values)).tolist()


def ratio(scores, index):
    others = [score for other, score in enumerate(scores) if other != index]
    return sum(scores[index] / other for other in others) / len(others)


positive = st.floats(0.01, 1.0)


class TestOGM:
    @given(st.lists(positive, min_size=2, max_size=5), st.floats(0.0, 2.0))
    def test_is_the_published_formula_on_the_mean_of_ratios(self, scores, alpha):
        ratios = [ratio(scores, index) for index in range(len(scores))]
        assume(all(abs(value - 1) > 1e-4 for value in ratios))
        expected = [1 - math.tanh(alpha * value) if value > 1 else 1.0 for value in ratios]
        assert coefficients("ogm", {"alpha": alpha}, scores=scores) == pytest.approx(expected, abs=1e-4)
        expected = [max(1 - alpha * math.tanh(value - 1), 0) if value > 1 else 1.0 for value in ratios]
        assert coefficients("ogm_tanh", {"alpha": alpha}, scores=scores) == pytest.approx(expected, abs=1e-4)

    def test_the_two_readings_are_far_apart(self):
        scores = [0.6, 0.5]
        assert coefficients("ogm", scores=scores) == pytest.approx([1 - math.tanh(1.2), 1.0], abs=1e-6)
        assert coefficients("ogm_tanh", scores=scores) == pytest.approx([1 - math.tanh(0.2), 1.0], abs=1e-6)

    @given(st.lists(st.floats(0.05, 3.0), min_size=2, max_size=2, unique=True), st.floats(0.1, 2.0))
    def test_with_inverse_errors_of_two_modalities_it_is_eq_5(self, errors, alpha):
        assume(abs(errors[0] - errors[1]) > 1e-6)  # what is almost a tie is a matter of rounding
        expected = ConflictAware(penalize=False, alpha=alpha)(statistics(errors=errors)).tolist()
        actual = coefficients("ogm", {"alpha": alpha, "score": "inverse_error"}, errors=errors)
        assert actual == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("number", [2, 3, 4])
    def test_a_tie_is_not_damped(self, number):
        assert coefficients("ogm", scores=[0.7] * number) == [1.0] * number


class TestControls:
    def test_none_changes_nothing(self):
        assert coefficients("none", scores=[0.1, 0.9], errors=[2.0, 0.1]) == [1.0, 1.0]

    @given(st.lists(st.floats(0.05, 4.0), min_size=2, max_size=4))
    def test_inverse_variance(self, squares):
        total = sum(1 / value for value in squares)
        expected = [min(max(len(squares) / value / total, 0.25), 2.0) for value in squares]
        assert coefficients("inverse_variance", squared_errors=squares) == pytest.approx(expected, rel=1e-5)

    def test_inverse_variance_is_of_a_running_mean(self):
        rule = RULES["inverse_variance"](momentum=0.5)
        rule(statistics(squared_errors=[1.0, 1.0]))
        running = [0.5 * 1.0 + 0.5 * 3.0, 1.0]
        total = sum(1 / value for value in running)
        expected = [2 / value / total for value in running]
        assert rule(statistics(squared_errors=[3.0, 1.0])).tolist() == pytest.approx(expected, rel=1e-5)

    def test_prioritize_damps_all_but_the_best(self):
        assert coefficients("prioritize", {"alpha": 0.3}, errors=[0.9, 0.4, 1.2]) == pytest.approx([0.3, 1.0, 0.3])

    def test_random_takes_what_cpsl_gave_at_some_step(self):
        rule, seen = RULES["random"](), []
        draws = []
        for step in range(50):
            values = statistics(errors=[1.0 + 0.01 * step, 1.5], grad_norms=[2.0, 1.0], step=step, seed=7)
            seen.append(ConflictAware()(values).tolist())
            draws.append(rule(values).tolist())
            assert draws[-1] in seen
        assert len({tuple(draw) for draw in draws}) > 10
        again = RULES["random"]()
        repeated = [
            again(statistics(errors=[1.0 + 0.01 * step, 1.5], grad_norms=[2.0, 1.0], step=step, seed=7)).tolist()
            for step in range(50)
        ]
        assert repeated == draws

    def test_random_forgets_what_is_long_ago(self):
        rule = RULES["random"]()
        for step in range(HISTORY + 5):
            rule(statistics(errors=[1.0, 1.5], step=step))
        assert len(rule.history) == HISTORY


class TestCGGM:
    def test_by_hand(self):
        rule = RULES["cggm"](momentum=0.0, floor=0.001)
        assert rule(statistics(errors=[1.0, 2.0, 1.0])).tolist() == [1.0, 1.0, 1.0]
        falls = [0.1 + 0.001, 0.25 + 0.001, 0.0 + 0.001]  # the third became worse
        expected = [min(1.5 * (sum(falls) - fall) / sum(falls), 2.0) for fall in falls]
        assert rule(statistics(errors=[0.9, 1.5, 1.3])).tolist() == pytest.approx(expected)

    @given(st.lists(st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3), min_size=2, max_size=6))
    def test_has_a_mean_of_one(self, steps):
        rule = RULES["cggm"]()
        for errors in steps:
            values = rule(statistics(errors=errors))
        assert values.mean().item() == pytest.approx(1.0, abs=1e-6)


class TestShapley:
    def test_by_hand(self):
        phi = [0.4, 0.1, -0.2]
        floored = [0.4, 0.1, 0.02]
        expected = [math.exp(0.02 / value - 1) for value in floored]
        assert coefficients("shapley", contributions=phi) == pytest.approx(expected)

    def test_keeps_the_last_contributions_between_evaluations(self):
        rule = RULES["shapley"]()
        assert rule(statistics(errors=[1.0, 1.0])).tolist() == [1.0, 1.0]
        known = rule(statistics(contributions=[0.4, 0.1])).tolist()
        assert rule(statistics(errors=[1.0, 1.0])).tolist() == known

    def test_alternate_moves_one_at_a_time_weakest_first(self):
        rule = RULES["alternate"]()
        rule(statistics(contributions=[0.3, 0.1, 0.2], epoch=0.9, step=8))
        turns = [rule(statistics(errors=[1.0] * 3, epoch=1.0 + step / 9, step=step)).tolist() for step in range(9, 15)]
        assert [turn.index(1.0) for turn in turns] == [1, 2, 0, 1, 2, 0]
        assert all(sum(turn) == 1.0 for turn in turns)


RULE_NAMES = sorted(RULES)


class TestEveryRule:
    @pytest.mark.parametrize("name", RULE_NAMES)
    @given(
        values=st.lists(st.tuples(positive, st.floats(0, 6), st.floats(0, 1e3)), min_size=1, max_size=4),
        absent=st.integers(-1, 3),
    )
    def test_is_finite_and_leaves_an_absent_modality_alone(self, name, values, absent):
        scores, errors, norms = (list(column) for column in zip(*values, strict=True))
        if 0 <= absent < len(values):
            scores[absent] = errors[absent] = math.nan
        squares = [error**2 for error in errors]
        shares = [score - 0.3 for score in scores]
        rule = RULES[name]()
        for step in range(2):
            result = rule(
                statistics(
                    scores=scores,
                    errors=errors,
                    grad_norms=norms,
                    squared_errors=squares,
                    contributions=shares,
                    step=step,
                )
            )
        assert result.shape == (len(values),) and result.isfinite().all() and (result >= 0).all()
        if 0 <= absent < len(values) and name != "alternate":
            assert result[absent] == 1.0

    @pytest.mark.parametrize("name", RULE_NAMES)
    def test_what_is_known_of_former_steps_does_not_count_for_an_absent_modality(self, name):
        rule = RULES[name]()
        shares = {"contributions": [0.3, 0.2]}
        rule(statistics(errors=[1.0, 1.0], **shares))
        one_alone = {"scores": [0.9, math.nan], "errors": [0.5, math.nan], "squared_errors": [0.25, math.nan]}
        for step in range(1, 3):
            result = rule(statistics(**one_alone, grad_norms=[1.0, 1.0], step=step, **shares))
            assert result[0] == pytest.approx(1.0) or name == "random"  # whose coefficients are of other steps

    @pytest.mark.parametrize("name", RULE_NAMES)
    def test_what_it_keeps_goes_on_where_it_was(self, name):
        rule, again = RULES[name](), RULES[name]()

        def values(step):
            errors = [1.0 + 0.1 * math.sin(step), 1.1, 0.9]
            return statistics(errors=errors, contributions=[0.3, 0.1 * step, 0.2], step=step, epoch=step / 4)

        for step in range(6):
            rule(values(step))
        again.load_state_dict(rule.state_dict())
        assert [rule(values(step)).tolist() for step in range(6, 9)] == [
            again(values(step)).tolist() for step in range(6, 9)
        ]

    @pytest.mark.parametrize("name", RULE_NAMES)
    def test_its_options_have_defaults_and_are_checked(self, name):
        for option in dataclasses.fields(RULES[name]):
            assert not option.init or option.default is not dataclasses.MISSING
            if option.init and isinstance(option.default, float):
                with pytest.raises(ValueError, match=option.name):
                    RULES[name](**{option.name: -1.0})

    @pytest.mark.parametrize("name", [name for name in RULE_NAMES if RULES[name]().needs - {"contributions"}])
    def test_what_it_lacks_is_named(self, name):
        (needed,) = RULES[name]().needs
        with pytest.raises(ValueError, match=f"reads {needed}, which were not observed"):
            RULES[name]()(dataclasses.replace(statistics(errors=[1.0, 1.0]), **{needed: None}))

    @pytest.mark.parametrize("place", ["docs/balance.md", "experiments/balance.yaml"])
    def test_is_documented_and_compared(self, place):
        lines = (Path(__file__).parents[3] / place).read_text().splitlines()
        start, end = ("| `", "`") if place.endswith(".md") else ("  ", ":")
        named = {line.removeprefix(start).split(end)[0] for line in lines if line.startswith(start)}
        assert named >= {*RULES}

    def test_a_state_of_another_rule_is_refused(self):
        with pytest.raises(ValueError, match="CGGM needs"):
            RULES["cggm"]().load_state_dict(RULES["shapley"]().state_dict())


class TestInTheModulator:
    def layers(self):
        torch.manual_seed(0)
        layers = {name: torch.nn.Linear(4, 2) for name in ("acoustic", "visual")}
        sum(layer(torch.ones(3, 4)).sum() for layer in layers.values()).backward()
        return layers

    @pytest.mark.parametrize("name", RULE_NAMES)
    def test_gradients_are_multiplied_by_its_coefficients(self, name):
        layers, rule = self.layers(), RULES[name]()
        target = "update" if rule.needs_update_target else "gradient"
        modulator = GradientModulator(layers, rule=rule, likelihood_scale=1.2, enhance=False, target=target)
        modulator.attach(torch.optim.SGD([p for layer in layers.values() for p in layer.parameters()], lr=0.1))
        before = {key: layer.weight.grad.clone() for key, layer in layers.items()}
        errors = {"acoustic": torch.tensor([0.2, 0.4, 0.3]), "visual": torch.tensor([1.0, 2.0, 1.5])}
        modulator.observe_samples(errors)
        sums = {(): 10.0, ("acoustic",): 7.0, ("visual",): 9.0, ("acoustic", "visual"): 5.0}
        modulator.observe_coalitions({names: torch.tensor(value) for names, value in sums.items()})
        result = modulator.step(0)
        for key, layer in layers.items():
            factor = result[f"coefficient_{key}"] if target == "gradient" else 1.0
            torch.testing.assert_close(layer.weight.grad, before[key] * factor)
        for key, error in errors.items():
            assert result[f"score_{key}"].item() == pytest.approx(torch.exp(-error / 1.2).mean().item())

    def test_alternate_leaves_the_others_as_they_are_bit_for_bit(self):
        layers = self.layers()
        optimizer = torch.optim.AdamW([p for layer in layers.values() for p in layer.parameters()], lr=0.1)
        modulator = GradientModulator(layers, rule=RULES["alternate"](), target="update")
        modulator.attach(optimizer)
        for _ in range(4):
            before = {key: layer.weight.clone() for key, layer in layers.items()}
            modulator.observe_samples({key: torch.ones(3) for key in layers})
            turn = modulator.step(0)
            optimizer.step()
            moved = {key: not torch.equal(layer.weight, before[key]) for key, layer in layers.items()}
            assert moved == {key: turn[f"coefficient_{key}"].item() == 1.0 for key in layers}
            assert sum(moved.values()) == 1

    def test_alternate_needs_the_update_as_its_target(self):
        with pytest.raises(ValueError, match='Alternate needs target="update"'):
            GradientModulator(self.layers(), rule=RULES["alternate"]())

    def test_scores_and_squares_count_the_samples_that_have_the_modality(self):
        modulator = GradientModulator(self.layers(), rule=RULES["inverse_variance"](), likelihood_scale=2.0)
        errors = {"acoustic": torch.tensor([1.0, 5.0]), "visual": torch.tensor([2.0, 1.0])}
        modulator.observe_samples(errors, {"acoustic": torch.tensor([True, False])})
        result = modulator.step(0)
        assert result["score_acoustic"].item() == pytest.approx(math.exp(-0.5))
        assert result["error_acoustic"] == 1.0
        assert modulator.rule.variances.tolist() == [1.0, 2.5]

    def test_options_of_cpsl_s_rule_beside_another_rule_are_refused(self):
        with pytest.raises(ValueError, match="alpha and penalty_factor are options of CPSL's rule, not of OGM"):
            GradientModulator(self.layers(), rule=RULES["ogm"](), alpha=0.1)

    def test_in_classification_the_score_is_the_probability(self):
        modulator = GradientModulator(self.layers(), rule=RULES["ogm"]())
        modulator.observe_samples({"acoustic": torch.tensor([0.2]), "visual": torch.tensor([0.7])})
        assert modulator.step(0)["score_acoustic"].item() == pytest.approx(0.8)

    def test_a_state_of_another_rule_is_refused(self):
        state = GradientModulator(self.layers(), rule=RULES["ogm"]()).state_dict()
        with pytest.raises(ValueError, match="of the rule OGM, this modulator has ConflictAware"):
            GradientModulator(self.layers()).load_state_dict(state)
