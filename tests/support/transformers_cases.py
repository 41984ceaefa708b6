"""transformers' own tests of models, configurations and processors, run on ours by `test_transformers_suite.py`.

In a process of its own, with transformers' source distribution in front of the path: its tests are a package called
`tests`. Whatever of them does not hold here is in this file, with the reason.
"""

import sys
import types
import unittest

import pytest
import tiny_models
import torch

from modeling_cpsl import CPSLProcessor


def stand_in(name, **members):
    """Puts a module where the distribution lacks one, of which our cases need nothing."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


stand_in("tests.exporters")
stand_in("tests.exporters.test_export", ExportTesterMixin=object)
stand_in("tests.generation")
stand_in("tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
stand_in("tests.utils")
stand_in("tests.utils.test_configuration_utils", config_common_kwargs={})
stand_in("fetch_hub_objects_for_ci", url_to_local_path=str)

from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin  # noqa: E402
from tests.test_processing_common import ProcessorTesterMixin  # noqa: E402
from tests.test_training_mixin import TrainingTesterMixin  # noqa: E402


BOOLEANS = "it subtracts outputs, and modality_presence is boolean; test_transformers_use.py compares tuples"


def fails(**reasons):
    """Marks tests of a case that must fail, and why; one that passes is a failure, so that the list stays true."""

    def mark(case):
        for name, reason in reasons.items():
            setattr(case, name, pytest.mark.xfail(strict=True, reason=reason)(getattr(case, name)))
        return case

    return mark


class OneLabelConfigTester(ConfigTester):
    def create_and_test_config_with_num_labels(self):
        """Sentiment is one number: another number of labels is refused, which our own tests check."""


class ModelTester:
    """Makes what the mixins ask for; its names are theirs."""

    batch_size, seq_length = 3, 8
    num_hidden_layers, hidden_size, num_attention_heads = 2, 16, 2
    is_training = True

    def __init__(self, backbone):
        self.backbone = backbone

    def get_config(self):
        return tiny_models.make_config(self.backbone)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        return config, tiny_models.make_batch(config, lengths=[self.seq_length] * self.batch_size, labels=False)


class ModelCase(ModelTesterMixin, TrainingTesterMixin):
    backbone = ""
    model_tester = None
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = ModelTester(self.backbone)
        self.config_class, model_class = tiny_models.CLASSES[self.backbone]
        self.all_model_classes = (model_class,)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        return inputs | ({"labels": torch.zeros(self.model_tester.batch_size)} if return_labels else {})

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        batch = super()._create_text_training_batch(batch_size, seq_length, vocab_size)
        return batch | {"labels": torch.full((batch_size,), 2.0)}

    def test_config(self):
        OneLabelConfigTester(self, config_class=self.config_class, hidden_size=16).run_common_tests()


@fails(test_model_outputs_equivalence=BOOLEANS)
class DebertaTest(ModelCase, unittest.TestCase):
    backbone = "deberta"

    @unittest.skip("a plain DeBERTa with norm_rel_ebd fails it too; use_reentrant=False is the default")
    def test_training_gradient_checkpointing_use_reentrant_true(self): ...


@fails(test_model_outputs_equivalence=BOOLEANS)
class BertTest(ModelCase, unittest.TestCase):
    backbone = "bert"


@fails(test_model_outputs_equivalence=BOOLEANS)
class MPNetTest(ModelCase, unittest.TestCase):
    backbone = "mpnet"


@fails(
    test_call_arguments_not_in_attributes="feature_extractors of a call are checked against the processor's",
    test_init_arguments_not_in_processor_kwargs="max_length is the model's, and a call cannot change it",
)
class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = CPSLProcessor

    @classmethod
    def setUpClass(cls):
        # Saving code along, which our own tests look at, marks the processor that is saved, and not the loaded one.
        cls.processor_class._auto_class = None
        super().setUpClass()

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_models.make_wordpiece_tokenizer()

    @staticmethod
    def prepare_processor_dict():
        return {"modality_sizes": tiny_models.SIZES}
