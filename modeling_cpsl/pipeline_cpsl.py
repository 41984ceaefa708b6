"""`pipeline("multimodal-sentiment")`: words, voice and face -> sentiment, its parts and its uncertainty."""

import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_cpsl import PIPELINE_TASK, check_tokenizer
from .decision_cpsl import Candidates
from .explanation_cpsl import word_shares
from .processing_cpsl import CPSLProcessor, EncodedUtterance, warn_truncated
from .task_cpsl import Task
from .uncertainty_cpsl import DEFAULT_COVERAGE, conformal_quantiles, modality_set
from .utterances_cpsl import UTTERANCE_FIELDS, name_in_errors


EXPLAIN = (False, True, "words")
ON_ERROR = ("raise", "skip")  # as in `data_builders`, which code on the Hub does not import
# Utterances of similar length are batched within a window of this many batches, which is all that memory holds.
BATCHES_IN_WINDOW = 16
_FILE_NAME = re.compile(
    r"\S+\.(avi|csd|csv|flac|jpe?g|jsonl?|m4a|mkv|mov|mp3|mp4|mpe?g|npy|npz|ogg|opus|parquet|pkl|png|wav|webm|wmv)",
    re.IGNORECASE,
)


class MultimodalSentimentPipeline(Pipeline):
    """Predicts the sentiment of utterances.

    An utterance is a dict of `words` (a list) or `text` and of word-level features by modality, (n, d_m) each; what
    is None or left out is missing. A row of a data set is an utterance, and so is a text by itself.

    Args:
        model: A CPSL model.
        processor: Its [`CPSLProcessor`].
        batch_size: Utterances in a forward pass, 1 by default.
        num_samples: Above 1, predictions are means over that many latent draws, with their standard deviation.
        explain: Whether to report how much each modality matters, which costs one more forward pass a modality; with
            `words` also how much each word does, which costs one a word.
        on_error: `raise`, or `skip` to continue and return an `error` in place of a bad utterance's result.
        **kwargs: As for [`~transformers.Pipeline`].

    Example:
        >>> sentiment = pipeline("multimodal-sentiment", model="outputs/sample")
        >>> sentiment("this movie was really great")["label"]
        'positive'
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    processor: CPSLProcessor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_tokenizer(self.processor.tokenizer, self.model.config.vocab_size, self.model.name_or_path or "processor")

    def __call__(
        self, inputs: Any, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """Predicts one utterance, a list of them, or any stream of them.

        Args:
            inputs: An utterance, a list of them, or another iterable: a generator, a data set, a stream of any length.
                A stream is read 16 batches ahead; with a batch size of 1 each utterance is answered at once.
            batch_size: Overrides the pipeline's; results do not depend on it, except for chance in latent draws.
            num_workers: As other pipelines take it. Utterances are prepared in this process all the same, which takes
                little of the time.
            **kwargs: `num_samples`, `explain` and `on_error` override the pipeline's. `truncation` may be True, as it
                always is.

        Returns:
            One dict for each utterance, in their order (a dict for one, a list for a list, else a generator). Below is
            what it has for a sentiment. For several numbers or classes what is said of each is a dict by name; for
            classes there are a `label` and `probabilities`, and the uncertainty has a `set` in place of an `interval`.
            For one of some classes the score is the probability of the `label`, whose changes are told.

            - `score`: sentiment in [-3, 3]; `prediction`, the same before it was clipped to that range; `acc7_class`,
              its class -3 ... 3, and `label`, the name of that class;
            - `modalities`: for each modality None where it is missing, else a dict of `score` and `prediction` from
              it alone, which not every architecture has. With `explain` also `delta`, by how much the score changes
              through that modality (the score minus the score without it; None where it is the only one), and for
              those other than text `weight`, its mean share in the fusion, where the architecture has one;
            - `decision_weights`, with `explain`: the weight of the `fused` prediction and of each recalibrated one
              from a modality alone, whose sum is `prediction`; None where the fused one counts alone;
            - `word_shares`, with `explain="words"`: for each word by how much the score changes through it and its
              features (the score minus the score without them). None for a word that is the only one, was cut off or
              has no subword, and in place of the list where the text is missing;
            - `uncertainty`: a dict of `interval` and `coverage` where the model was calibrated on utterances with the
              same modalities, and of `std` with `num_samples`; None where there is neither;
            - `num_cut`: how many tokens at the end were not read, to keep `max_length`.

        Raises:
            ValueError: An utterance is bad and `on_error` is `raise`; the message names it. Or an argument is out of
                range.
            TypeError: There is no such argument.
        """
        if isinstance(inputs, (str, Mapping)):
            return next(self._results([inputs], batch_size, **kwargs))
        results = self._results(inputs, batch_size, **kwargs)
        return list(results) if isinstance(inputs, (list, tuple)) else results

    def calibrate(
        self, held_out: Iterable[Mapping[str, Any]], coverage: float = DEFAULT_COVERAGE, batch_size: int | None = None
    ) -> dict[str, Any]:
        """Fits the prediction intervals, or sets of classes, and stores them in the model's config.

        Each set of modalities that occurs gets an interval of its own: to have one for clips without a face, for
        example, include utterances without one. An earlier calibration is replaced.

        Args:
            held_out: Utterances with their `label`, none of which the model was trained on: errors on training
                samples are too small, and intervals that are fitted to them contain fewer labels than they claim.
            coverage: Share of labels that an interval shall contain, in (0, 1).
            batch_size: As for a call.

        Returns:
            Half the interval's width, by set of modalities such as `acoustic+text`; of several numbers or classes a
            list. For one class the largest 1 - p of a class in the set.

        Raises:
            ValueError: A label is missing or none of the task's, or there are too few samples for this coverage.
        """
        labels: list[Any] = []
        coverage, task = float(coverage), self._task

        def utterances() -> Iterator[Mapping[str, Any]]:
            for index, utterance in enumerate(held_out):
                labels.append(_label(utterance, index, task))
                yield utterance

        results = list(self._results(utterances(), batch_size, num_samples=1, explain=False, on_error="raise"))
        scores = np.array([task.scores_of(result) for result in results], dtype=np.float64)
        errors = task.conformity_errors(scores, task.label_array(labels))
        half_widths = conformal_quantiles(errors, [_modality_set(result) for result in results], coverage)
        self.model.set_calibration(half_widths, coverage)
        return half_widths

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Saves the model, the processor, and the code of both and of the pipeline.

        With transformers alone, without this package, it loads by `pipeline(..., trust_remote_code=True)`.

        Args:
            save_directory: A folder, which is created where it does not exist.
            **kwargs: As for [`~transformers.PreTrainedModel.save_pretrained`].
        """
        super().save_pretrained(save_directory, **kwargs)
        # Otherwise the model, saved again by itself, would refer to code that is not saved with it.
        del self.model.config.custom_pipelines
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(
        self,
        num_samples: int | None = None,
        explain: bool | str | None = None,
        on_error: str | None = None,
        truncation: bool = True,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(
                f"{', '.join(unknown)}: this pipeline has no such option, leave it out; it has batch_size, "
                "num_samples, explain and on_error"
            )
        if truncation is not True:
            raise ValueError(f"truncation={truncation!r}: utterances are always cut to max_length; leave it out")
        if on_error is not None and on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r} must be one of {', '.join(ON_ERROR)}")
        if explain is not None and explain not in EXPLAIN:
            raise ValueError(f"explain={explain!r} must be one of {', '.join(map(str, EXPLAIN))}")
        if num_samples is not None:
            _check_count("num_samples", num_samples)
        forward = {"num_samples": num_samples, "explain": explain}
        preprocess = {} if on_error is None else {"on_error": on_error}
        return preprocess, {name: value for name, value in forward.items() if value is not None}, {}

    def preprocess(self, input_: Any, on_error: str = "raise", name: str = "utterance") -> dict[str, Any]:
        """Checks and encodes an utterance, without padding.

        Args:
            input_: See [`MultimodalSentimentPipeline`].
            on_error: Whether an utterance that is refused raises a ValueError or gives an `error`.
            name: What to call it in errors.

        Returns:
            `encoded`, an [`~processing_cpsl.EncodedUtterance`], and `num_words`, None where the text is missing; or
            `error`, the message.
        """
        try:
            with name_in_errors(name):
                fields = _fields(input_)
                self.processor.check_extractors(fields.pop("feature_extractors") or {})
            checked = self.processor.make_utterance(name, **fields)
            (encoded,) = self.processor.encode([checked])
            # A stream may fill the same array anew for each utterance, and rows that no token reads need no memory.
            num_rows = max(encoded.word_index) + 1
            features = {modality: rows[:num_rows].copy() for modality, rows in encoded.features.items()}
            num_words = None if checked.words is None else len(checked.words)
            return {"encoded": encoded._replace(features=features), "num_words": num_words}
        except ValueError as error:
            if on_error == "raise":
                raise
            return {"error": str(error)}

    def _forward(
        self, input_tensors: dict[str, Any], num_samples: int = 1, explain: bool | str = False
    ) -> dict[str, Any]:
        self.model.eval()  # a model that was just trained would draw noise and update its running bounds
        output = self.model(**input_tensors, num_samples=num_samples)
        fields = ("logits", "logits_std", "unimodal_logits", "modality_presence")
        result = {name: output[name] for name in fields if name in output}
        if explain:
            result["weights"] = output.fusion_weights or {}
            plain = output if num_samples == 1 else self.model(**input_tensors)
            result["scores"] = self._task.scores(plain["logits"])
            result["without"] = self._leave_one_out(input_tensors, plain)
        return result

    def _leave_one_out(self, inputs: dict[str, Any], output: Any) -> dict[str, Tensor]:
        """By modality the scores without it, (B,) or (B, K); NaN where there is no other one.

        Masked text keeps its tokens, so that a word's features count as often as it has subwords, as before.
        """
        presence, scores = dict(output["modality_presence"]), {}
        for name in presence:
            others = [mask for other, mask in presence.items() if other != name]
            nothing_left = ~torch.stack(others).any(dim=0) if others else torch.ones_like(presence[name])
            without = presence | {name: torch.zeros_like(presence[name])}
            reduced = self.model(**(inputs | {"modality_mask": without}))
            values = self._task.scores(reduced["logits"])
            nothing_left = nothing_left.view(-1, *[1] * (values.dim() - 1))
            scores[name] = values.masked_fill(nothing_left, torch.nan)
        return scores

    def _scores(self, utterances: Sequence[EncodedUtterance]) -> list[Any]:
        """The scores of a batch of utterances, and nothing else of them."""
        scores = self._task.scores(self.forward(self.processor.make_batch(utterances))["logits"]).numpy()
        return scores.tolist() if self._task.is_one_number else [*scores]

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The model's outputs for B utterances -> their B results; an `error` where a prediction is not finite."""
        results: list[dict[str, Any]] = []
        logits, task = model_outputs["logits"], self._task
        scores = task.scores(logits).numpy()
        parts = {
            name: task.results(values, in_words=False)
            for name, values in (model_outputs.get("unimodal_logits") or {}).items()
        }
        for index, result in enumerate(task.results(logits.nan_to_num())):
            if not logits[index].isfinite().all():
                value = logits[index].flatten()[~logits[index].flatten().isfinite()][0]
                results.append({"error": f"the model predicts {float(value)}; its features are out of range"})
                continue
            result["modalities"] = {
                name: self._modality_result(name, index, parts, model_outputs) if present[index] else None
                for name, present in model_outputs["modality_presence"].items()
            }
            if "without" in model_outputs:
                weights = self._decision_weights(result)
                result["decision_weights"] = weights and {name: weight for name, (weight, _, _) in weights.items()}
            result["uncertainty"] = self._uncertainty(result, scores[index], index, model_outputs)
            results.append(result)
        return results

    @property
    def _task(self) -> Task:
        return self.model.task

    def _modality_result(
        self, name: str, index: int, parts: Mapping[str, list[dict[str, Any]]], outputs: dict[str, Any]
    ) -> dict[str, Any]:
        result = parts[name][index] if name in parts else {}
        if "without" in outputs:
            with_it, without = outputs["scores"][index].numpy(), outputs["without"][name][index].numpy()
            result["delta"] = None if np.isnan(without).any() else self._task.change(with_it, without)
            if name in outputs["weights"]:
                result["weight"] = float(outputs["weights"][name][index])
        return result

    def _decision_weights(self, result: Mapping[str, Any]) -> Candidates | None:
        return (self.model.config.decision_weights or {}).get(_modality_set(result))

    def _uncertainty(
        self, result: dict[str, Any], scores: np.ndarray, index: int, outputs: dict[str, Any]
    ) -> dict[str, Any] | None:
        uncertainty: dict[str, Any] = {}
        if "logits_std" in outputs:
            uncertainty["std"] = self._task.by_name(outputs["logits_std"][index].numpy())
        quantiles = (self.model.config.interval_half_widths or {}).get(_modality_set(result))
        if quantiles is not None:
            uncertainty |= self._task.region(scores.astype(np.float64), np.array(quantiles))
            uncertainty["coverage"] = self.model.config.interval_coverage
        return uncertainty or None

    def _results(self, inputs: Iterable[Any], batch_size: int | None, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """The results of a call; its arguments are checked at once, its inputs when they are read."""
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
        _check_count("batch_size", batch_size)
        can_be_iterated = isinstance(inputs, Iterable) or hasattr(
            inputs, "__getitem__"
        )  # as a data set of PyTorch can
        if isinstance(inputs, bytes) or not can_be_iterated:
            raise ValueError(
                f"inputs are of type {type(inputs).__name__}, expected an utterance (a dict of words and features, or "
                "a text) or several"
            )
        if hasattr(inputs, "columns"):
            raise ValueError("inputs are a table, not a list of utterances; give its rows: table.to_dict('records')")
        return self._stream(inputs, batch_size, preprocess, forward, postprocess)

    def _stream(
        self,
        utterances: Iterable[Any],
        batch_size: int,
        preprocess: dict[str, Any],
        forward: dict[str, Any],
        postprocess: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Results in the order of the utterances; memory holds one window of them at a time."""
        window: list[dict[str, Any]] = []
        is_live = batch_size == 1 and not hasattr(utterances, "__len__")
        window_size = 1 if is_live else batch_size * BATCHES_IN_WINDOW
        raises, preprocess = preprocess.get("on_error", "raise") == "raise", {**preprocess, "on_error": "skip"}
        for index, utterance in enumerate(utterances):
            name = _name(utterance, index)
            window.append({"name": name, **self.preprocess(utterance, **preprocess, name=name)})
            # The results before a bad utterance are given before its error is raised.
            if len(window) == window_size or (raises and "error" in window[-1]):
                yield from self._predict_window(window, batch_size, raises, forward, postprocess)
                window = []
        yield from self._predict_window(window, batch_size, raises, forward, postprocess)

    def _predict_window(
        self,
        window: list[dict[str, Any]],
        batch_size: int,
        raises: bool,
        forward: dict[str, Any],
        postprocess: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Makes batches of similar length, the longest first, so that one too large for memory fails at once."""
        results: list[Any] = [{"score": None, "error": item["error"]} if "error" in item else None for item in window]
        encoded = {index: item["encoded"] for index, item in enumerate(window) if "encoded" in item}
        warn_truncated([utterance.num_tokens for utterance in encoded.values()], self.processor.max_length)
        longest_first = sorted(encoded, key=lambda index: encoded[index].num_tokens, reverse=True)
        for start in range(0, len(longest_first), batch_size):
            chosen = longest_first[start : start + batch_size]
            batch = self.processor.make_batch([encoded[index] for index in chosen])
            outputs = self.postprocess(self.forward(batch, **forward), **postprocess)
            if forward.get("explain") == "words":
                num_words = [window[index]["num_words"] for index in chosen]
                shares = word_shares(
                    [encoded[index] for index in chosen], num_words, self._scores, batch_size, self._task.change
                )
                outputs = [output | {"word_shares": of} for output, of in zip(outputs, shares, strict=True)]
            for index, output in zip(chosen, outputs, strict=True):
                if "error" in output:
                    output = {"score": None, "error": f"{window[index]['name']}: {output['error']}"}
                else:
                    output["num_cut"] = encoded[index].num_cut
                results[index] = output
        for result in results:
            if raises and "error" in result:
                raise ValueError(result["error"])
            yield result


def _name(utterance: Any, index: int) -> str:
    sample_id = utterance.get("id") if isinstance(utterance, Mapping) else None
    return f"utterance {index}" if sample_id is None else f"utterance {index} (id {sample_id})"


def _label(utterance: Any, index: int, task: Task) -> Any:
    with name_in_errors(_name(utterance, index)):
        label = utterance.get("label") if isinstance(utterance, Mapping) else None
        if label is None:
            raise ValueError("no label; calibration needs one")
        return task.checked_label(label)


def _fields(utterance: Any) -> dict[str, Any]:
    """An utterance's `words`, `text`, `feature_extractors` and `features` by modality."""
    if isinstance(utterance, str):
        if not utterance.strip():
            raise ValueError("the text has no words; leave it out")
        if _FILE_NAME.fullmatch(utterance.strip()):
            raise ValueError(
                f"{utterance!r} looks like the name of a file; give the words and features that were extracted from "
                "it, or {'text': ...} if it is what was said"
            )
        utterance = {"text": utterance}
    if not isinstance(utterance, Mapping):
        raise ValueError(f"expected a dict of words and features, or a text, not {type(utterance).__name__}")
    features = {name: value for name, value in utterance.items() if name not in UTTERANCE_FIELDS}
    others = {name: utterance.get(name) for name in ("words", "text", "feature_extractors")}
    return {**others, "features": features}


def _check_count(name: str, count: Any) -> None:
    """Raises a ValueError unless a count, which may be one of NumPy's, is a whole number of at least 1."""
    try:
        is_right = operator.index(count) >= 1
    except TypeError:
        is_right = False
    if not is_right:
        raise ValueError(f"{name}={count!r} must be a whole number of at least 1")


def _modality_set(result: Mapping[str, Any]) -> str:
    return modality_set(name for name, part in result["modalities"].items() if part is not None)


if PIPELINE_TASK not in PIPELINE_REGISTRY.get_supported_tasks():  # a copy from the Hub leaves the package's in place
    PIPELINE_REGISTRY.register_pipeline(
        PIPELINE_TASK,
        pipeline_class=MultimodalSentimentPipeline,
        pt_model=AutoModelForSequenceClassification,
        type="multimodal",
    )

__all__ = ["MultimodalSentimentPipeline"]
