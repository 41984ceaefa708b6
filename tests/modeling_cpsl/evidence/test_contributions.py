"""What each modality contributes, against the definition of the Shapley value over all orders."""

import itertools

import numpy as np
import pytest

from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence.contributions import contributions, subsets_of_rows
from modeling_cpsl.evidence.group_sums import group_sums


MODALITIES = ("acoustic", "text", "timing")
SUBSETS = [frozenset(subset) for size in (1, 2, 3) for subset in itertools.combinations(MODALITIES, size)]
NOISE = {"acoustic": 3.0, "text": 1.0, "timing": 9.0}


def simulated(groups=40, seeds=2, size=5):
    """Labels, groups and for every subset predictions (seeds, N), the better the more it knows."""
    generator = np.random.default_rng(0)
    labels = generator.uniform(-3, 3, groups * size)
    known = {name: labels + generator.normal(0, noise, (seeds, len(labels))) for name, noise in NOISE.items()}
    weights = {name: noise**-2 for name, noise in NOISE.items()}
    predictions = {
        subset: sum(known[name] * weights[name] for name in subset) / sum(weights[name] for name in subset)
        for subset in SUBSETS
    }
    return labels, np.repeat([f"g{index:02d}" for index in range(groups)], size).tolist(), predictions


def test_shapley_values_are_the_mean_gains_over_all_orders():
    labels, groups, predictions = simulated()
    sums = {
        subset: np.array([list(group_sums(each, labels, groups).values()) for each in predicted])
        for subset, predicted in predictions.items()
    }
    found = contributions(sums)
    value = {
        subset: np.mean([compute_sentiment_metrics(each, labels)["corr"] for each in predicted])
        for subset, predicted in predictions.items()
    } | {frozenset(): 0.0}
    assert [each.modality for each in found] == ["text", "acoustic", "timing"]
    for each in found:
        gains = []
        for order in itertools.permutations(MODALITIES):
            before = frozenset(order[: order.index(each.modality)])
            gains.append(value[before | {each.modality}] - value[before])
        assert each.shapley == pytest.approx(np.mean(gains))
        assert each.alone == pytest.approx(value[frozenset([each.modality])])
        assert each.last == pytest.approx(
            value[frozenset(MODALITIES)] - value[frozenset(MODALITIES) - {each.modality}]
        )
        assert each.low < each.shapley < each.high
    assert sum(each.shapley for each in found) == pytest.approx(value[frozenset(MODALITIES)])


def test_only_every_subset_of_several_modalities_is_one():
    rows = {"+".join(sorted(subset)): {"modalities": ",".join(sorted(subset))} for subset in SUBSETS}
    assert subsets_of_rows(rows | {"wide": {"fusion_size": 8}}) == {
        subset: "+".join(sorted(subset)) for subset in SUBSETS
    }
    del rows["text"]
    assert subsets_of_rows(rows) == subsets_of_rows({"text": {"modalities": "text"}}) == {}
