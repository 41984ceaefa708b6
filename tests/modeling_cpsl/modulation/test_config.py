"""The options of gradient modulation are one list with one check."""

import pytest
from modulation_cases import groups_with_gradients

from modeling_cpsl.modulation import GradientModulator, ModulationConfig


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
        ModulationConfig(**arguments)
    with pytest.raises(ValueError, match=message):
        GradientModulator(groups_with_gradients(), **arguments)


def test_options_are_fields_of_the_config():
    config = ModulationConfig(alpha=0.3, enhance=False)
    assert GradientModulator(groups_with_gradients(), config, alpha=0.4).config == ModulationConfig(
        alpha=0.4, enhance=False
    )
    assert GradientModulator(groups_with_gradients()).config == ModulationConfig()
    with pytest.raises(TypeError, match="alhpa"):
        GradientModulator(groups_with_gradients(), alhpa=0.4)
