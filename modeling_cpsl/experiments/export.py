"""A trained model as an ONNX file, which runs without PyTorch and this package."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_builders.files import replacing_file

from ..features_cpsl import feature_arguments
from ..processing_cpsl import STANDARDIZED_LIMIT, CPSLProcessor


# The version of ONNX's operators, which ONNX Runtime knows from 1.17 (January 2024) on; the first with GELU as one.
OPSET = 20
MAX_BYTES = 2**31 - 1  # of a file in the format of protobuf


class FlatModel(nn.Module):
    """A CPSL model with tensors in and tensors out, which standardises the features as its processor does.

    Args:
        model: A CPSL model.
        processor: Its processor.
    """

    def __init__(self, model: Any, processor: CPSLProcessor):
        super().__init__()
        self.model = model
        self.statistics = {
            name: tuple(torch.tensor(values[key], dtype=torch.float32) for key in ("mean", "std"))
            for name, values in processor.feature_statistics.items()
        }

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Predicts the label of B utterances of L subword tokens.

        Args:
            inputs: As from [`example_inputs`].

        Returns:
            `logits`, (B,) or (B, K) as the model's task says, and the same as `<modality>_logits` for each modality
            with a prediction of its own.
        """
        names = self.model.config.modality_sizes
        mask = inputs["feature_mask"].unsqueeze(-1)
        presence = {name: inputs[f"has_{name}"] for name in self.model.modality_names}
        features = {}
        for name in names:
            rows = inputs[name]
            if name in self.statistics:
                mean, std = self.statistics[name]
                rows = ((rows - mean) / std).clamp(-STANDARDIZED_LIMIT, STANDARDIZED_LIMIT)
            features[name] = torch.where(mask & presence[name][:, None, None], rows, 0.0)
        text = {"input_ids": inputs["input_ids"]} if self.model.config.use_text else {}
        output = self.model(
            **text,
            attention_mask=inputs["attention_mask"],
            feature_mask=inputs["feature_mask"],
            word_starts=inputs.get("word_starts"),
            modality_mask=presence,
            **feature_arguments(features),
        )
        unimodal = output.unimodal_logits or {}
        return {"logits": output.logits} | {f"{name}_logits": value for name, value in unimodal.items()}


def example_inputs(model: Any, batch_size: int = 2, length: int = 6) -> dict[str, Tensor]:
    """Inputs of a [`FlatModel`] by name: ones where nothing else is needed.

    They are `input_ids` and `attention_mask` (B, L) int64; `feature_mask` (B, L) bool, True at the tokens of words;
    `word_starts` (B, L) bool, True at the first token of each word, for an architecture that reads one row a word;
    each modality's features (B, L, d_m) float32, where each token has the row of its word; and `has_<modality>` (B,)
    bool, `has_text` among them.
    """
    shape = (batch_size, length)
    ids = ["input_ids", "attention_mask"] if model.config.use_text else ["attention_mask"]
    inputs = {name: torch.ones(shape, dtype=torch.long) for name in ids}
    masks = ["feature_mask", *(["word_starts"] if model.multimodal.reads_word_starts else [])]
    inputs |= {name: torch.ones(shape, dtype=torch.bool) for name in masks}
    inputs |= {name: torch.ones(*shape, size) for name, size in model.config.modality_sizes.items()}
    return inputs | {f"has_{name}": torch.ones(batch_size, dtype=torch.bool) for name in model.modality_names}


def export_model(model: Any, processor: CPSLProcessor, path: Path, *, int8: bool = False) -> None:
    """Writes a model as an ONNX file, whose inputs are those of [`example_inputs`] and outputs those of [`FlatModel`].

    Args:
        model: A CPSL model, on a CPU.
        processor: Its processor.
        path: The file to write.
        int8: Whether to keep the weights of linear layers as 8-bit integers: smaller and faster, and less exact.

    Raises:
        ValueError: The file is not called `.onnx`, the packages that it needs are not installed, the model is too
            large for one file, or its architecture only works at one size there.
        WriteError: The file could not be written.
    """
    if path.suffix != ".onnx" or path.is_dir():
        raise ValueError(f"{path}: name a file that ends in .onnx")
    try:
        import onnxruntime  # noqa: F401
        from onnxscript import optimizer
    except ImportError as error:
        raise ValueError(f"an ONNX file needs {error.name}; say pip install 'cpsl[onnx]'") from None
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size > MAX_BYTES and not int8:
        raise ValueError(f"{path}: a model of {size / 1e9:.1f} GB is too large for one ONNX file; use --int8")
    with replacing_file(path) as temporary, tempfile.TemporaryDirectory() as folder, _quiet_exporter():
        whole = Path(folder, "model.onnx") if int8 else temporary
        program = _trace(model, processor)
        if int8:
            # The exporter leaves transposed weights to the runtime; only what is constant in the file is made smaller.
            optimizer.fold_constants(program.model, input_size_limit=MAX_BYTES, output_size_limit=MAX_BYTES)
        program.save(whole, external_data=int8)
        if int8:
            _quantize(whole, temporary)


def _quantize(source: Path, target: Path) -> None:
    """Writes an ONNX file anew with the weights of its linear layers as 8-bit integers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        # Sums of products with 8 bits overflow on a processor without VNNI: weights take 7, each output its scale.
        per_channel=True,
        reduce_range=True,
    )


def _trace(model: Any, processor: CPSLProcessor) -> torch.onnx.ONNXProgram:
    inputs = example_inputs(model, length=min(6, processor.max_length))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=processor.max_length)
    shapes = {name: {0: batch, 1: length} if value.dim() > 1 else {0: batch} for name, value in inputs.items()}
    with torch.no_grad():
        program = torch.onnx.export(
            FlatModel(model, processor).eval(),
            kwargs={"inputs": inputs},
            dynamic_shapes={"inputs": shapes},
            input_names=list(inputs),
            output_names=["logits", *(f"{name}_logits" for name in model.unimodal_names)],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for value in program.model.graph.inputs:
        if any(isinstance(size, int) for size in list(value.shape or ())[: len(shapes[value.name])]):
            raise ValueError(
                f"a model of architecture={model.config.architecture!r} cannot be an ONNX file: its graph would only "
                f"take {value.name} of one size; use cpsl predict"
            )
    return program


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what PyTorch and ONNX Runtime say of their own insides."""
    with warnings.catch_warnings(action="ignore"):
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


__all__ = ["FlatModel", "example_inputs", "export_model"]
