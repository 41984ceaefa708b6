"""`pipeline("multimodal-sentiment")`: from words, voice and face to a sentiment with its parts and its uncertainty."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .processing_cpsl import CPSLProcessor, warn_truncated
from .uncertainty_cpsl import DEFAULT_COVERAGE, conformal_half_widths, modality_set


TASK = "multimodal-sentiment"
ON_ERROR = ("raise", "skip")
# Batches of like length are made inside a window of this many batches, which is all that is held in memory.
BATCHES_IN_WINDOW = 16
# Columns of a data set that say nothing to the model.
IGNORED_FIELDS = ("id", "video_id", "split", "label", "start", "end", "word_start", "word_end")


class MultimodalSentimentPipeline(Pipeline):
    """Predicts the sentiment of utterances.

    An utterance is a dict of `words` (a list) or `text` and of word-level features by modality, (n, d_m) each; what
    is None or left out is missing. A row of a data set is one, and so is a text by itself.

    Args:
        model: A CPSL model.
        processor: Its [`CPSLProcessor`].
        batch_size: Utterances in a forward pass, 1 by default.
        num_samples: Above 1, predictions are means over that many latent draws, with their standard deviation.
        explain: Whether to tell how much each modality matters, at the cost of a forward pass a modality.
        on_error: `raise`, or `skip` to go on and give an `error` in place of a bad utterance's result.
        **kwargs: As for [`~transformers.Pipeline`].
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    processor: CPSLProcessor

    def __call__(
        self, inputs: Any, batch_size: int | None = None, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """Predicts one utterance, a list of them, or any stream of them.

        Args:
            inputs: An utterance, a list, or another iterable: a generator, a data set, a stream of any length. A
                stream is read 16 batches ahead, but with a batch size of 1 answered utterance by utterance.
            batch_size: Overrides the pipeline's; results do not depend on it, but for the chance in latent draws.
            **kwargs: `num_samples`, `explain` and `on_error` override the pipeline's.

        Returns:
            For each utterance, in their order (a dict for one, a list for a list, else a generator), a dict of

            - `score`: sentiment in [-3, 3]; `acc7_class`, -3 ... 3, and its name `label`;
            - `modalities`: by name None where it is missing, else a dict of `score`, predicted from it alone, and
              with `explain` `delta`, the score less the score with it masked (None where it is all there is), and but
              for text `weight`, its mean share in the fusion;
            - `uncertainty`: a dict of `interval` and `coverage` where the model was calibrated on utterances with the
              same modalities, and `std` with `num_samples`; None where there is neither.

        Raises:
            ValueError: An utterance is bad and `on_error` is `raise`; names it. Or an argument is out of range.
        """
        preprocess, forward, postprocess = (
            {**defaults, **given}
            for defaults, given in zip(
                (self._preprocess_params, self._forward_params, self._postprocess_params),
                self._sanitize_parameters(**kwargs),
                strict=True,
            )
        )
        if batch_size is None:
            batch_size = self._batch_size or 1
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if hasattr(inputs, "columns"):
            raise ValueError("a table is no stream of utterances; give its rows, table.to_dict('records')")
        single = isinstance(inputs, (str, Mapping))
        results = self._stream([inputs] if single else inputs, batch_size, preprocess, forward, postprocess)
        if single:
            return next(results)
        return list(results) if isinstance(inputs, (list, tuple)) else results

    def calibrate(
        self, held_out: Iterable[Mapping[str, Any]], coverage: float = DEFAULT_COVERAGE, batch_size: int | None = None
    ) -> dict[str, float]:
        """Fits the prediction intervals and stores them in the model's config, which `save_pretrained` keeps.

        Each set of modalities that the utterances have gets an interval of its own; to have one for clips without a
        face, say, give utterances without one too. An earlier calibration is replaced.

        Args:
            held_out: Utterances with their `label`, none of which the model was trained on: residuals of training
                samples are too small and the interval would not hold what it says.
            coverage: Share of labels that an interval shall hold, in (0, 1).
            batch_size: As for a call.

        Returns:
            Half the interval's width by modalities, such as `acoustic+text`.

        Raises:
            ValueError: A label is missing or not in [-3, 3], or there are too few samples for this coverage.
        """
        labels: list[float] = []
        coverage = float(coverage)

        def utterances() -> Iterator[Mapping[str, Any]]:
            for index, utterance in enumerate(held_out):
                labels.append(_label(utterance, index))
                yield utterance

        results = list(self(utterances(), batch_size=batch_size, num_samples=1, explain=False, on_error="raise"))
        half_widths = conformal_half_widths(
            [result["score"] for result in results], labels, [_modality_set(result) for result in results], coverage
        )
        self.model.set_calibration(half_widths, coverage)
        return half_widths

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Saves model, processor and the code of both and of the pipeline.

        Who has transformers and not this package then says `pipeline(..., trust_remote_code=True)`.

        Args:
            save_directory: A folder; made where it is not there.
            **kwargs: As for [`~transformers.PreTrainedModel.save_pretrained`].
        """
        super().save_pretrained(save_directory, **kwargs)
        # Else the model by itself would name code that it does not bring when it is saved again.
        del self.model.config.custom_pipelines
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(
        self, num_samples: int | None = None, explain: bool | None = None, on_error: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if on_error is not None and on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r} is none of {', '.join(ON_ERROR)}")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be at least 1")
        forward = {"num_samples": num_samples, "explain": explain}
        preprocess = {} if on_error is None else {"on_error": on_error}
        return preprocess, {name: value for name, value in forward.items() if value is not None}, {}

    def preprocess(self, input_: Any, on_error: str = "raise") -> dict[str, Any]:
        """An utterance -> `inputs`, the model's with a batch of 1, and `num_tokens` before it was cut.

        Under `skip`, an `error` where that fails.
        """
        try:
            inputs, num_tokens = self.processor.prepare(*_split_fields(input_, self.processor.use_text))
            if len(num_tokens) > 1:
                raise ValueError("a list of utterances stands where one is expected; give each a dict of its own")
            return {"inputs": inputs, "num_tokens": num_tokens[0]}
        except ValueError as error:
            # The processor counts from 0 within its call, which is of one utterance here.
            message = str(error).removeprefix("utterance 0: ")
            if on_error == "raise":
                raise ValueError(message) from error
            return {"error": message}

    def _forward(self, input_tensors: dict[str, Any], num_samples: int = 1, explain: bool = False) -> dict[str, Any]:
        self.model.eval()  # a model that was just trained would draw noise and move its running bounds
        output = self.model(**input_tensors, num_samples=num_samples)
        fields = ("logits", "logits_std", "unimodal_logits", "modality_presence")
        result = {name: output[name] for name in fields if name in output}
        if explain:
            result["weights"] = output["fusion_weights"]
            plain = output if num_samples == 1 else self.model(**input_tensors)
            result["deltas"] = self._leave_one_out(input_tensors, plain)
        return result

    def _leave_one_out(self, inputs: dict[str, Any], output: Any) -> dict[str, Tensor]:
        """By modality (B,): the score less the score with it masked; NaN where nothing else is there.

        What is masked keeps its tokens: a word's features go on to weigh as often as it has subwords.
        """
        presence, score = output["modality_presence"], output["logits"].clamp(-3.0, 3.0)
        deltas = {}
        for name in presence:
            others = [mask for other, mask in presence.items() if other != name]
            nothing_left = ~torch.stack(others).any(dim=0) if others else torch.ones_like(presence[name])
            without = presence | {name: torch.zeros_like(presence[name])}
            reduced = self.model(**(inputs | {"modality_mask": without}))
            deltas[name] = (score - reduced["logits"].clamp(-3.0, 3.0)).masked_fill(nothing_left, torch.nan)
        return deltas

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The model's outputs for B utterances -> their B results; an `error` where a prediction is no number."""
        results: list[dict[str, Any]] = []
        logits = model_outputs["logits"]
        for index, sentiment in enumerate(self.processor.decode_sentiment(logits.nan_to_num())):
            if not logits[index].isfinite():
                results.append({"error": f"the model predicts {float(logits[index])}; its features are out of range"})
                continue
            result = {"score": sentiment["value"], "label": sentiment["label"], "acc7_class": sentiment["acc7_class"]}
            result["modalities"] = {
                name: _modality_result(name, index, model_outputs) if present[index] else None
                for name, present in model_outputs["modality_presence"].items()
            }
            result["uncertainty"] = self._uncertainty(result, index, model_outputs)
            results.append(result)
        return results

    def _uncertainty(self, result: dict[str, Any], index: int, outputs: dict[str, Any]) -> dict[str, Any] | None:
        uncertainty: dict[str, Any] = {}
        if "logits_std" in outputs:
            uncertainty["std"] = float(outputs["logits_std"][index])
        half_width = (self.model.config.interval_half_widths or {}).get(_modality_set(result))
        if half_width is not None:
            uncertainty["interval"] = [max(result["score"] - half_width, -3.0), min(result["score"] + half_width, 3.0)]
            uncertainty["coverage"] = self.model.config.interval_coverage
        return uncertainty or None

    def _stream(
        self,
        utterances: Iterable[Any],
        batch_size: int,
        preprocess: dict[str, Any],
        forward: dict[str, Any],
        postprocess: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Results in the order of the utterances, of which one window at a time is in memory."""
        window: list[dict[str, Any]] = []
        is_live = batch_size == 1 and not hasattr(utterances, "__len__")
        window_size = 1 if is_live else batch_size * BATCHES_IN_WINDOW
        on_error = preprocess.get("on_error", "raise")
        for index, utterance in enumerate(utterances):
            window.append(self.preprocess(utterance, **(preprocess | {"on_error": "skip"})))
            window[-1]["name"] = _name(utterance, index)
            if len(window) == window_size or (on_error == "raise" and "error" in window[-1]):
                yield from self._predict_window(window, batch_size, on_error, forward, postprocess)
                window = []
        yield from self._predict_window(window, batch_size, on_error, forward, postprocess)

    def _predict_window(
        self,
        window: list[dict[str, Any]],
        batch_size: int,
        on_error: str,
        forward: dict[str, Any],
        postprocess: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Batches of like length, longest first, so that what does not fit in memory shows itself at once."""
        results: list[Any] = [{"error": item["error"]} if "error" in item else None for item in window]
        good = [index for index, item in enumerate(window) if "error" not in item]
        good.sort(key=lambda index: window[index]["num_tokens"], reverse=True)
        warn_truncated([window[index]["num_tokens"] for index in good], self.processor.max_length)
        # Utterances without text have no input_ids.
        for with_text in (True, False):
            alike = [index for index in good if ("input_ids" in window[index]["inputs"]) == with_text]
            for start in range(0, len(alike), batch_size):
                chosen = alike[start : start + batch_size]
                batch = _pad_and_stack(
                    [window[index]["inputs"] for index in chosen], self.processor.tokenizer.pad_token_id
                )
                outputs = self.postprocess(self.forward(batch, **forward), **postprocess)
                for index, output in zip(chosen, outputs, strict=True):
                    results[index] = output
        for item, result in zip(window, results, strict=True):
            if "error" in result:
                result = {"score": None, "error": f"{item['name']}: {result['error']}"}
                if on_error == "raise":
                    raise ValueError(result["error"])
            yield result


def _name(utterance: Any, index: int) -> str:
    sample_id = utterance.get("id") if isinstance(utterance, Mapping) else None
    return f"utterance {index}" if sample_id is None else f"utterance {index} (id {sample_id})"


def _label(utterance: Any, index: int) -> float:
    label = utterance.get("label") if isinstance(utterance, Mapping) else None
    if label is None:
        raise ValueError(f"{_name(utterance, index)}: no label; calibration needs one")
    try:
        value = float(label)
    except (TypeError, ValueError):
        value = float("nan")
    if not -3.0 <= value <= 3.0:
        raise ValueError(f"{_name(utterance, index)}: label {label!r} is not in [-3, 3]")
    return value


def _modality_set(result: Mapping[str, Any]) -> str:
    return modality_set(name for name, part in result["modalities"].items() if part is not None)


def _split_fields(utterance: Any, use_text: bool) -> tuple[Any, Any, dict[str, Any], Any]:
    """An utterance's words, text, features by modality and extractors."""
    if isinstance(utterance, str):
        return None, utterance, {}, None
    if not isinstance(utterance, Mapping):
        raise ValueError(f"a {type(utterance).__name__} is no utterance; give a dict of words and features, or a text")
    features = {name: value for name, value in utterance.items() if name not in IGNORED_FIELDS}
    words, text, extractors = (features.pop(name, None) for name in ("words", "text", "feature_extractors"))
    return (words, text, features, extractors) if use_text else (None, None, features, extractors)


def _modality_result(name: str, index: int, outputs: dict[str, Any]) -> dict[str, Any]:
    result = {"score": float(outputs["unimodal_logits"][name][index].clamp(-3.0, 3.0))}
    if "deltas" in outputs:
        delta = float(outputs["deltas"][name][index])
        result["delta"] = delta if delta == delta else None
        if name in outputs["weights"]:
            result["weight"] = float(outputs["weights"][name][index])
    return result


def _pad_and_stack(items: list[dict[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Batches of 1 -> one batch, padded on the right to the longest."""

    def join(name: str, values: list[Any]) -> Any:
        if isinstance(values[0], Mapping):
            return {key: join(key, [value[key] for value in values]) for key in values[0]}
        if values[0].ndim == 1:
            return torch.cat(values)
        longest = max(value.shape[1] for value in values)
        fill = pad_token_id if name == "input_ids" else 0
        return torch.cat(
            [
                nn.functional.pad(value, [0, 0] * (value.ndim - 2) + [0, longest - value.shape[1]], value=fill)
                for value in values
            ]
        )

    return {name: join(name, [item[name] for item in items]) for name in items[0]}


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=MultimodalSentimentPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal"
)

__all__ = ["MultimodalSentimentPipeline"]
