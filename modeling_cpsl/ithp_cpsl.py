"""ITHP: a chain of information bottlenecks from text on, each of which predicts a modality (Xiao et al., 2024)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .latent_losses_cpsl import reconstruction_loss
from .losses_cpsl import TASK_TERM, LossTerm
from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import masked, sample_mean, token_mean
from .regressor_cpsl import MultimodalRegressor, check_probability, check_size, check_weight, option


# Codes are drawn in training, and in evaluation they are their means. From a variance of 1 the noise would be as
# large as the text's states, and LayerNorm would make of these something else without it: predictions overshoot.
INITIAL_LOG_VARIANCE = -4.0


@strict
@dataclass
class ITHPOptions:
    """The options of ITHP; defaults are those of its released code, but for `target_dropout`."""

    order: str | None = option(
        None, "The chain, comma-separated: text, and then each other modality. Default: text, the others by name."
    )
    hidden_size: int = option(256, "Width of the hidden layers of the chain.")
    bottleneck_size: int = option(128, "Size of the first bottleneck; each further one has half the size.")
    dropout: float | int = option(0.3, "Dropout in the hidden layers of the chain.")
    target_dropout: float | int = option(0.0, "Dropout on what is predicted of the targets; 0.3 in the code.")
    first_target_weight: float | int = option(8.0, "Weight of the first modality's prediction beside its bottleneck.")
    later_target_weight: float | int = option(32.0, "The same for each later modality.")
    later_level_weight: float | int = option(0.3, "Weight of each later level of the chain; that of the first is 1.")
    chain_weight: float | int = option(0.05, "Weight of the chain beside the task loss: the code's 2 / (8 + 32).")
    beta: float | int = option(1.0, "Weight of the shift that the last bottleneck gives to the text's states.")
    shift_dropout: float | int = option(0.5, "Dropout on the shifted states.")

    def __post_init__(self) -> None:
        for name in ("dropout", "target_dropout", "shift_dropout"):
            check_probability(name, getattr(self, name))
        for name in ("hidden_size", "bottleneck_size"):
            check_size(name, getattr(self, name))
        for name in ("first_target_weight", "later_target_weight", "later_level_weight", "chain_weight", "beta"):
            check_weight(name, getattr(self, name))


class Code(NamedTuple):
    """A bottleneck's state: the mean and log variance of its Gaussian and what was drawn of it, (B, L, d) each."""

    mean: Tensor
    log_variance: Tensor
    drawn: Tensor


class Bottleneck(nn.Module):
    """One level of the chain: compresses what comes into a Gaussian code, and predicts a modality from it.

    Args:
        input_size: Size of what comes in.
        size: Size of the code.
        target_size: d_m of the modality that is predicted.
        options: The options of ITHP.
    """

    def __init__(self, input_size: int, size: int, target_size: int, options: ITHPOptions):
        super().__init__()
        hidden_size, dropout = options.hidden_size, options.dropout
        self.trunk = nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Dropout(dropout))
        self.mean_head = nn.Linear(hidden_size, size)
        self.log_variance_head = nn.Linear(hidden_size, size)
        self.predictor = nn.Sequential(
            *(nn.Linear(size, hidden_size), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden_size, target_size), nn.Sigmoid(), nn.Dropout(options.target_dropout)),
        )

    def forward(self, values: Tensor, is_drawn: bool, noise: Tensor | None) -> Code:
        """Compresses `values` (B, L, d_in); a code is drawn, with `noise` (B, L, d) if given, or it is the mean."""
        hidden = self.trunk(values)
        mean, log_variance = self.mean_head(hidden), self.log_variance_head(hidden)
        if not is_drawn:
            return Code(mean, log_variance, mean)
        noise = torch.randn_like(mean) if noise is None else noise.to(mean)
        return Code(mean, log_variance, mean + noise * torch.exp(0.5 * log_variance))


def compression_loss(mean: Tensor, log_variance: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(N(mean, variance) | N(0, I)), averaged over dimensions, a sample's tokens and samples.

    Args:
        mean: (B, L, d).
        log_variance: (B, L, d).
        mask: (B, L), 1 at the tokens that count.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar, in nats.
    """
    kept = mask.bool()[..., None]
    mean, log_variance = masked(mean, kept), masked(log_variance, kept)
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0)
    return sample_mean(token_mean(divergence.mean(dim=-1), mask), weights)


class ITHPRegressor(MultimodalRegressor):
    """A head over the text's states, shifted by the last of a chain of bottlenecks; made for two or more modalities.

    b_0 ~ E_0(T), b_1 ~ E_1(b_0) and so on; b_i predicts the (min-max normalised) features of modality i + 1. Then
    H = Dropout(LayerNorm(T + beta W b_last)) is pooled. The other modalities are what the chain has to predict in
    training, so that it keeps of the text what is related to them. **They are never read**: a prediction depends on
    the text alone.

    Args:
        config: The model's configuration.
    """

    title = "ITHP (this package)"
    reference = "Xiao et al. (2024), *Neuro-Inspired Information-Theoretic Hierarchical Perception*, ICLR"
    Options = ITHPOptions
    parts_by_place = frozenset({"levels"})
    config_fields = frozenset({"pooling", "feature_normalization"})
    loss_terms = {
        "task": TASK_TERM,
        "compression": LossTerm("compression loss", "nats, mean over latent dimensions"),
        "target": LossTerm("target loss", "weighted mean squared error"),
    }

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        options, hidden_size = self.options, config.hidden_size
        self.loss_weights = dict.fromkeys(("compression", "target"), options.chain_weight)
        _, *targets = _chain(options.order, self.modality_names)
        self.code_sizes = {name: max(options.bottleneck_size >> level, 1) for level, name in enumerate(targets)}
        input_sizes = [hidden_size, *self.code_sizes.values()]
        self.levels = nn.ModuleDict(
            {
                name: Bottleneck(input_size, size, config.modality_sizes[name], options)
                for input_size, (name, size) in zip(input_sizes, self.code_sizes.items(), strict=False)
            }
        )
        self.shift = nn.Linear(input_sizes[-1], hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.shift_dropout = nn.Dropout(options.shift_dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(hidden_size, self.task.num_outputs)

    @classmethod
    def check_options(cls, options: Any, modality_names: list[str]) -> None:
        """See [`MultimodalRegressor.check_options`]; the chain begins with text and has every modality once."""
        _chain(options.order, modality_names)

    def latent_noise_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """(L, d) by the modality that a bottleneck predicts."""
        return {name: (length, size) for name, size in self.code_sizes.items()}

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """None: no modality beside text is encoded."""
        return []

    @torch.no_grad()
    def initialize_module(self, module: nn.Module) -> None:
        """See [`MultimodalRegressor.initialize_module`]; codes start with little noise."""
        super().initialize_module(module)
        if module in {level.log_variance_head for level in self.levels.values()}:
            init.constant_(module.bias, INITIAL_LOG_VARIANCE)

    def regress(self, inputs: RegressorInputs) -> Regression:
        """Runs the chain and predicts from what it makes of the text; codes are drawn in training only."""
        codes = self._codes(inputs.hidden, self.training, inputs.noise)
        regression = Regression(self._logits(inputs, codes))
        if inputs.num_samples > 1:
            draws = [self._logits(inputs, self._codes(inputs.hidden, True, {})) for _ in range(inputs.num_samples)]
            logits = torch.stack(draws)
            regression.logits, regression.logits_std = logits.mean(dim=0), logits.std(dim=0)
        if inputs.labels is not None:
            task = self._task_loss(regression.logits, inputs)
            regression.losses = {"task": task} | self._chain_losses(inputs, codes)
        return regression

    def _feature_weight(self, name: str) -> str:
        return f"levels.{name}.predictor.3.weight"

    def _codes(self, hidden: Tensor, is_drawn: bool, noise: dict[str, Tensor]) -> dict[str, Code]:
        """The codes of the chain by the modality that each predicts, in its order."""
        codes, values = {}, hidden
        for name, level in self.levels.items():
            codes[name] = level(values, is_drawn, noise.get(name))
            values = codes[name].drawn
        return codes

    def _logits(self, inputs: RegressorInputs, codes: dict[str, Code]) -> Tensor:
        *_, last = codes.values()
        shifted = self.norm(inputs.hidden + self.options.beta * self.shift(last.drawn))
        pooled = self._pool(self.shift_dropout(shifted), inputs.mask)
        return self.task.logits(self.out_proj(self.dropout(F.gelu(self.dense(pooled)))))

    def _chain_losses(self, inputs: RegressorInputs, codes: dict[str, Code]) -> dict[str, Tensor]:
        """The losses of all levels, each with its weight; they count where there is text, and a target."""
        options, with_text = self.options, inputs.mask & inputs.presence["text"][:, None]
        compression, target = [], []
        for index, (name, code) in enumerate(codes.items()):
            features, present = self._normalize(name, inputs)
            prediction = self.levels[name].predictor(code.drawn).float()
            level_weight = options.later_level_weight if index else 1.0
            target_weight = options.later_target_weight if index else options.first_target_weight
            error = reconstruction_loss(prediction, features, present & with_text, inputs.weights)
            compression.append(
                level_weight
                * compression_loss(code.mean.float(), code.log_variance.float(), with_text, inputs.weights)
            )
            target.append(level_weight * target_weight * error)
        return {"compression": torch.stack(compression).sum(), "target": torch.stack(target).sum()}


def _chain(order: str | None, modality_names: list[str]) -> list[str]:
    """The modalities in the order of the chain; ValueError for an `order` that is none of these modalities."""
    if order is None:
        return modality_names
    names = [name.strip() for name in order.split(",")]
    if sorted(names) != sorted(modality_names) or names[0] != "text":
        raise ValueError(f"order={order!r} must begin with text and name each of {','.join(modality_names)} once")
    return names


__all__ = ["Bottleneck", "Code", "ITHPOptions", "ITHPRegressor", "compression_loss"]
