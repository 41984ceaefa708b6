"""A training step reads no tensor on the host, where a GPU would have to be waited for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host_reads import NoHostRead
from tiny_models import SIZES, make_batch, make_model

from modeling_cpsl import modeling_cpsl as models
from modeling_cpsl.modulation import GradientModulator
from modeling_cpsl.training.embedding_rows import PartlyTrainedEmbedding
from modeling_cpsl.training.loss_watch import LossWatch


@pytest.fixture
def model():
    """A model that trains the rows of the tokens that occur.

    Over DeBERTa: transformers' BERT and MPNet ask in each forward pass whether a batch has padding.
    """
    model = make_model().train()
    embedding = model.get_input_embeddings()
    model.set_input_embeddings(PartlyTrainedEmbedding(embedding, torch.arange(2, 30, device=embedding.weight.device)))
    return model


def make_step(model, batch, watch, modulator):
    output = model(**batch)
    output.loss.backward()
    watch.add({"loss": output.loss}, "step 0")
    modulator.observe({name: output.modality_errors[name].sum() for name in SIZES}, count=len(batch["labels"]))
    modulator.step(0)


def make_modulator(model):
    return GradientModulator({name: model.modality_parameters(name) for name in SIZES})


def test_a_step_reads_nothing_where_batches_are_not_packed(model, monkeypatch):
    monkeypatch.setattr(models, "packing_pays", lambda *arguments: False)  # as on a GPU
    batch, watch = make_batch(model.config), LossWatch()
    modulator = make_modulator(model)
    with NoHostRead():
        make_step(model, batch, watch, modulator)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            watch.check(wait=True)


def test_packing_reads_lengths_and_is_left_out_on_a_gpu(model):
    mask = torch.ones(2, 8, dtype=torch.long)
    with NoHostRead(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        models.packing_pays(model.base_model, mask)
    assert not models.packing_pays(model.base_model, mask.to("meta"))


ON_A_GPU = """
import json, sys, torch
sys.path[:0] = json.loads(sys.argv[1])
if not torch.cuda.is_available():
    raise SystemExit(77)
from test_host_reads import LossWatch, make_batch, make_model, make_modulator, make_step
model = make_model().train().cuda()
batch = {name: value.cuda() for name, value in make_batch(model.config).items()}
watch, modulator = LossWatch(), make_modulator(model)
make_step(model, batch, watch, modulator)  # the first one sets up what cuBLAS needs
torch.cuda.set_sync_debug_mode("error")
make_step(model, batch, watch, modulator)
torch.cuda.set_sync_debug_mode("default")
watch.check(wait=True)
"""


@pytest.mark.slow
def test_a_step_waits_for_no_gpu():
    """In a process of its own, since the tests hide GPUs from themselves."""
    root = Path(__file__).parents[3]
    paths = [str(root), str(root / "tests" / "support"), str(Path(__file__).parent)]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", ON_A_GPU, json.dumps(paths)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if result.returncode == 77:
        pytest.skip("needs a GPU")
    assert result.returncode == 0, result.stderr
