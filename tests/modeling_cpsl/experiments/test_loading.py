"""What shows sentiments refuses models of other labels."""

import pytest

from modeling_cpsl.configuration_cpsl import CPSLConfig
from modeling_cpsl.experiments.loading import check_sentiment


def test_other_labels_are_refused_in_a_sentence():
    check_sentiment("a-model", CPSLConfig(), "the page")
    emotions = CPSLConfig(problem_type="single_label_classification", id2label={0: "happy", 1: "sad"})
    with pytest.raises(
        ValueError, match=r"^a-model: its labels are no sentiments, which the page shows; `cpsl predict`"
    ):
        check_sentiment("a-model", emotions, "the page")
