"""Gradient modulation for multimodal training: OGM-style damping, the conflict-aware penalty and gradient enhancement.

Knows torch and nothing else, and serves any model with one encoder a modality and one error a modality. The error is
the absolute error of a unimodal head in regression (arXiv:2605.28575, eq. 5-6), and one minus the probability of the
true class in classification (OGM-GE, Peng et al., CVPR 2022, which compares those probabilities).
"""

import functools
import itertools
import logging
import math
import random
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


logger = logging.getLogger(__name__)

TARGETS = ("gradient", "update")
QUANTITIES = ("error", "grad_norm", "coefficient", "conflict", "damped")


def check_modulation_arguments(
    *,
    modulate: bool = True,
    penalize: bool = True,
    enhance: bool = False,
    alpha: float = 1.0,
    penalty_factor: float = 0.5,
    start_epoch: int = 0,
    end_epoch: int = 25,
    target: str = "gradient",
) -> None:
    """Checks the arguments of [`GradientModulator`].

    Raises:
        ValueError: If an argument is out of its range, or `enhance` is asked for without `modulate`.
    """
    if enhance and not modulate:
        raise ValueError("enhance=True needs modulate=True: the noise of GE makes up for what GM damps")
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha={alpha} must be finite and at least 0")
    if not 0 < penalty_factor < 1:
        raise ValueError(f"penalty_factor={penalty_factor} must lie between 0 and 1, both excluded")
    if not 0 <= start_epoch <= end_epoch:
        raise ValueError(f"the window needs 0 <= start_epoch <= end_epoch, not {start_epoch=}, {end_epoch=}")
    if target not in TARGETS:
        raise ValueError(f"target={target!r} must be one of {', '.join(TARGETS)}")


@torch.no_grad()
def modulation_coefficients(
    errors: dict[str, Tensor],
    grad_norms: dict[str, Tensor] | None = None,
    *,
    alpha: float = 1.0,
    penalty_factor: float = 0.5,
    modulate: bool = True,
    penalize: bool = True,
    eps: float = 1e-8,
) -> dict[str, Tensor]:
    r"""Gradient coefficients of eq. 5 (GM) and eq. 6 (CP) of arXiv:2605.28575.

    With the scores \\(s_m = 1 / (error_m + eps)\\), a modality whose score is above the mean of the others' gets
    \\(c_m = 1 - \tanh(alpha \, s_m / (mean\,of\,others + eps))\\), every other one gets 1. A modality in conflict,
    that is with a smaller error than every other and a larger gradient norm than the mean of the others, has its
    coefficient multiplied by `penalty_factor`. With two modalities this is the paper's pair; with fewer, and in a tie,
    the coefficient is 1. Computed on the device of the errors without a host sync.

    Args:
        errors: Mean absolute error of each modality, 0-dim tensors. A modality whose error is not finite (no sample of
            the step has it) is left out of the comparison and gets 1.
        grad_norms: Average gradient norm of each modality's encoder, 0-dim tensors; needed by `penalize`.
        alpha: Strength of the damping, at least 0.
        penalty_factor: Factor of the penalty (the paper's eta), in (0, 1).
        modulate: Whether to apply eq. 5. Without it the coefficients start from 1.
        penalize: Whether to apply eq. 6.
        eps: Keeps the divisions finite.

    Returns:
        One finite coefficient in [0, 1] a modality, 0-dim tensors.

    Raises:
        ValueError: If `penalize` is set without `grad_norms`, the two name different modalities, or `alpha` or
            `penalty_factor` is out of range.
    """
    check_modulation_arguments(modulate=modulate, penalize=penalize, alpha=alpha, penalty_factor=penalty_factor)
    if penalize and grad_norms is None:
        raise ValueError("penalize=True needs grad_norms: a conflict is a larger gradient norm beside a smaller error")
    if penalize and grad_norms.keys() != errors.keys():
        raise ValueError(f"grad_norms name {sorted(grad_norms)} but errors name {sorted(errors)}")
    if not errors:
        return {}
    stacked_errors = _stack(errors.values())
    coefficients = torch.ones_like(stacked_errors)
    if modulate:
        coefficients = _damping(stacked_errors, alpha, eps)
    if penalize:
        conflicts = _conflicts(stacked_errors, _stack((grad_norms[name] for name in errors), like=stacked_errors))
        coefficients = torch.where(conflicts, penalty_factor * coefficients, coefficients)
    return dict(zip(errors, coefficients.unbind(), strict=True))


class GradientModulator:
    """Balances the encoders of a multimodal model by modulating their gradients once per optimizer step.

    In a plain PyTorch loop, for any model with an error a modality:

    ```python
    modulator = GradientModulator({"acoustic": model.acoustic, "visual": model.visual})
    for epoch in range(30):
        for batch, labels in loader:
            loss, errors = model(batch, labels)  # errors: dict name -> (B,)
            loss.backward()
            modulator.observe({name: error.sum() for name, error in errors.items()}, count=len(labels))
            modulator.step(epoch)
            optimizer.step()
            optimizer.zero_grad()
    ```

    With gradient accumulation `observe` is called for every micro-batch and `step` once, before clipping. Under
    `torch.distributed` the errors are pooled over all ranks, so that each rank gets the same coefficients; gradients
    are taken as they are, already reduced (DDP) or sharded (FSDP2's `fully_shard`, whose norms and noise are those of
    the full tensors; FSDP1 is not supported). Build the modulator after the model is wrapped: `fully_shard` replaces
    the parameters.

    Gradient enhancement (GE) adds Gaussian noise to the gradient of each parameter, damped or not, with the standard
    deviation (biased) that this gradient has before the coefficient. It is drawn from a generator of its own, seeded
    by `seed`, the number of the step and the modality, so that ranks (on the same kind of device) and restarts agree.

    Fewer than two modalities leave nothing to compare: GM, CP and GE are then off, with one log line, and the
    statistics remain.

    Args:
        groups: The modulated parameters of each modality, as parameters or as modules. Frozen parameters and those
            without a gradient in a step are skipped.
        modulate: Gradient modulation (GM), eq. 5.
        penalize: Conflict-aware penalty (CP), eq. 6. Without `modulate` it starts from a coefficient of 1.
        enhance: Gradient enhancement (GE), needs `modulate`.
        alpha: Strength of the damping, at least 0.
        penalty_factor: Factor of the penalty (the paper's eta), in (0, 1).
        start_epoch: First epoch of the window, counted from 0. Outside the window gradients are untouched, bit for
            bit.
        end_epoch: Last epoch of the window, included.
        target: What the coefficient scales. `"gradient"` is the paper; but adaptive optimizers such as AdamW cancel a
            steady scale of the gradient. `"update"` leaves the gradient to the optimizer (GE still adds its noise) and
            scales the step that it takes, weight decay included; it needs [`~GradientModulator.attach`] and, during
            the optimizer's step, a copy of the modulated parameters.
        seed: Seed of the noise.

    Raises:
        ValueError: If there is no group, a group is empty, two groups share a parameter, or another argument is out of
            range.
        TypeError: If a group holds something that is not a parameter.
    """

    def __init__(
        self,
        groups: dict[str, Iterable[nn.Parameter] | nn.Module],
        *,
        modulate: bool = True,
        penalize: bool = True,
        enhance: bool = True,
        alpha: float = 1.0,
        penalty_factor: float = 0.5,
        start_epoch: int = 0,
        end_epoch: int = 25,
        target: str = "gradient",
        seed: int = 0,
    ):
        check_modulation_arguments(
            modulate=modulate,
            penalize=penalize,
            enhance=enhance,
            alpha=alpha,
            penalty_factor=penalty_factor,
            start_epoch=start_epoch,
            end_epoch=end_epoch,
            target=target,
        )
        self._parameters = _parameters_by_group(groups)
        if len(groups) < 2 and (modulate or penalize):
            logger.warning("Gradient modulation is off: it compares modalities and got only %s.", *groups)
            modulate = penalize = enhance = False
        self.modulate = modulate
        self.penalize = penalize
        self.enhance = enhance
        self.alpha = alpha
        self.penalty_factor = penalty_factor
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.target = target
        self.seed = seed

        self._step = 0
        self._totals = torch.zeros(2, len(QUANTITIES), len(groups))  # sums and counts since the last `pop_statistics`
        self._observed: Tensor | None = None  # (2, M): error sums and counts since the last `step`
        self._warned: set[str] = set()
        self._is_attached = False
        self._update_scales: dict[nn.Parameter, Tensor] = {}  # for the optimizer step that follows
        self._snapshot: dict[nn.Parameter, Tensor] = {}

    @property
    def modalities(self) -> list[str]:
        """Names of the groups."""
        return list(self._parameters)

    @torch.no_grad()
    def observe(self, error_sums: dict[str, Tensor], count: int | Tensor | dict[str, int | Tensor]) -> None:
        """Takes in the errors of one micro-batch.

        Args:
            error_sums: Sum over the samples of the micro-batch of each modality's error, 0-dim tensors. Modalities
                that are not modulated are ignored.
            count: Number of samples in the sums, or one number a modality where some samples lack one (0 if all do).
                Tensors should be on the device of the errors.

        Raises:
            ValueError: If a modulated modality is missing from `error_sums` or from `count`.
        """
        counts = count if isinstance(count, dict) else dict.fromkeys(self._parameters, count)
        for argument, values in (("error_sums", error_sums), ("count", counts)):
            if missing := [name for name in self._parameters if name not in values]:
                raise ValueError(f"{argument} lacks {missing}: give 0 for a modality that no sample of the batch has")
        sums = _stack(error_sums[name] for name in self._parameters)
        observed = torch.stack([sums, _stack((counts[name] for name in self._parameters), like=sums)])
        self._observed = observed if self._observed is None else self._observed + observed

    @torch.no_grad()
    def step(self, epoch: float, *, grad_scale: float | Tensor = 1.0) -> dict[str, Tensor]:
        """Modulates the accumulated gradients; to be called by all ranks after backward and before clipping.

        Args:
            epoch: Current epoch, counted from 0. Of a fractional one (`TrainerState.epoch`) the integer part counts.
            grad_scale: What the loss was multiplied by if the gradients are still scaled (fp16); the reported norms
                are divided by it. The modulation itself does not depend on it.

        Returns:
            Statistics of the step as 0-dim float tensors: `error_<modality>`, `grad_norm_<modality>`,
            `coefficient_<modality>`, `conflict_<modality>` and `damped_<modality>` (0 or 1), and `imbalance`, the
            largest difference between two coefficients. Outside the window the coefficients are 1.

        Raises:
            RuntimeError: If nothing was observed since the last step, or `target="update"` has no optimizer attached.
        """
        if self._observed is None:
            raise RuntimeError("step() needs the errors of this step: call observe() for each micro-batch before it")
        if self.target == "update" and not self._is_attached:
            raise RuntimeError('target="update" scales the optimizer\'s step: call attach(optimizer) before training')
        observed, self._observed = self._observed, None
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(observed)
        sums, counts = observed.unbind()
        errors = sums / counts

        parameters = {name: self._with_gradient(name) for name in self._parameters}
        norms = torch.stack([_mean_norm([p.grad for p in group], errors.device) for group in parameters.values()])
        conflicts = _conflicts(errors, norms)
        coefficients = torch.ones_like(errors)
        self._update_scales = {}
        if self.start_epoch <= math.floor(epoch) <= self.end_epoch:
            if self.modulate:
                coefficients = _damping(errors, self.alpha)
            if self.penalize:
                coefficients = torch.where(conflicts, self.penalty_factor * coefficients, coefficients)
            for (name, group), coefficient in zip(parameters.items(), coefficients, strict=True):
                self._modulate(name, group, coefficient)
        self._step += 1

        statistics = torch.stack([errors, norms / grad_scale, coefficients, conflicts, coefficients < 1])
        # an unobserved modality, or an overflow whose step a GradScaler skips, would stay in the sums for good
        finite = statistics.isfinite()
        self._totals = self._totals.to(errors.device) + torch.stack([torch.where(finite, statistics, 0), finite])
        return self._named(statistics)

    def pop_statistics(self) -> dict[str, Tensor]:
        """Means of the step statistics since the last call, NaN where there was none; starts anew.

        The mean of `conflict_<modality>` is the fraction of steps in conflict, that of `damped_<modality>` the
        fraction of steps with a coefficient below 1. `imbalance` is the largest difference between two mean
        coefficients.
        """
        sums, counts = self._totals
        self._totals = torch.zeros_like(self._totals)
        return self._named(sums / counts)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets `target="update"` scale the steps of an optimizer; with `target="gradient"` there is nothing to do.

        A step that a `GradScaler` skips stays skipped. Several optimizers may be attached.

        Args:
            optimizer: A torch optimizer, or accelerate's wrapper around one.

        Raises:
            ValueError: If the optimizer holds no modulated parameter.
        """
        if self.target == "update":
            optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks of its own
            if set(_parameters_of(optimizer)).isdisjoint(itertools.chain(*self._parameters.values())):
                raise ValueError(f"{type(optimizer).__name__} holds no parameter of {', '.join(self._parameters)}")
            optimizer.register_step_pre_hook(self._before_update)
            optimizer.register_step_post_hook(self._after_update)
            self._is_attached = True

    def state_dict(self) -> dict[str, Any]:
        """State between two optimizer steps that a restart needs: the noise's step and the running statistics."""
        return {"modalities": self.modalities, "step": self._step, "totals": self._totals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of [`~GradientModulator.state_dict`].

        Raises:
            ValueError: If the state belongs to other modalities.
        """
        if state["modalities"] != self.modalities:
            raise ValueError(f"the state is of modalities {state['modalities']}, this modulator has {self.modalities}")
        self._step = state["step"]
        self._totals = state["totals"]
        self._observed = None

    def _with_gradient(self, name: str) -> list[nn.Parameter]:
        parameters = [p for p in self._parameters[name] if p.requires_grad and p.grad is not None]
        if not parameters and name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"no parameter of {name!r} has a gradient: frozen, unused or replaced?", stacklevel=2)
        return parameters

    def _modulate(self, name: str, parameters: list[nn.Parameter], coefficient: Tensor) -> None:
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        coefficient = coefficient.to(gradients[0].device)
        deviations = [_deviation(gradient) for gradient in gradients] if self.enhance else []
        if self.target == "gradient":
            torch._foreach_mul_([_local(gradient) for gradient in gradients], coefficient)
        else:
            self._update_scales |= dict.fromkeys(parameters, coefficient)
        if self.enhance:
            seed = random.Random(f"{self.seed}/{self._step}/{name}").getrandbits(63)
            generator = torch.Generator(gradients[0].device).manual_seed(seed)
            for gradient, deviation in zip(gradients, deviations, strict=True):
                _local(gradient).add_(_noise(gradient, generator) * deviation)

    @torch.no_grad()
    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        own = self._update_scales.keys() & set(_parameters_of(optimizer))
        self._snapshot = {parameter: _local(parameter).clone() for parameter in own}

    @torch.no_grad()
    def _after_update(self, *_: Any) -> None:
        for parameter, before in self._snapshot.items():
            # a coefficient holds for one step; this way round one of 1 leaves the parameter as it is, bit for bit
            weight = 1 - self._update_scales.pop(parameter)
            _local(parameter).lerp_(before, weight.to(before.dtype))
        self._snapshot = {}

    def _named(self, statistics: Tensor) -> dict[str, Tensor]:
        named = {
            f"{quantity}_{name}": value
            for quantity, row in zip(QUANTITIES, statistics, strict=True)
            for name, value in zip(self._parameters, row, strict=True)
        }
        coefficients = statistics[QUANTITIES.index("coefficient")]
        return {**named, "imbalance": coefficients.amax() - coefficients.amin()}


def _parameters_by_group(groups: dict[str, Iterable[nn.Parameter] | nn.Module]) -> dict[str, list[nn.Parameter]]:
    if not groups:
        raise ValueError("groups is empty: name the modalities whose parameters are to be modulated")
    parameters: dict[str, list[nn.Parameter]] = {}
    owners: dict[nn.Parameter, str] = {}
    for name, group in groups.items():
        members = list(dict.fromkeys(group.parameters() if isinstance(group, nn.Module) else group))
        if not members:
            raise ValueError(f"group {name!r} has no parameters")
        for parameter in members:
            if not isinstance(parameter, nn.Parameter):
                raise TypeError(f"group {name!r} holds a {type(parameter).__name__}: give parameters or a module")
            if (owner := owners.setdefault(parameter, name)) != name:
                shape = tuple(parameter.shape)
                raise ValueError(f"groups {owner!r} and {name!r} share a parameter of shape {shape}")
        parameters[name] = members
    return parameters


def _parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)


def _damping(errors: Tensor, alpha: float, eps: float = 1e-8) -> Tensor:
    scores = 1 / (errors + eps)
    mean_of_others, is_above = _compare_with_others(scores, errors.isfinite())
    return torch.where(is_above, 1 - torch.tanh(alpha * scores / (mean_of_others + eps)), 1.0)


def _conflicts(errors: Tensor, norms: Tensor) -> Tensor:
    comparable = errors.isfinite() & norms.isfinite()
    _, has_larger_norm = _compare_with_others(norms, comparable)
    lowest_other_error = torch.where(_others(comparable), errors, math.inf).amin(1)
    return comparable & has_larger_norm & (errors < lowest_other_error)


def _compare_with_others(values: Tensor, comparable: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the comparable others' values and whether the own value is strictly above it, each (M,)."""
    others = _others(comparable)
    mean = torch.where(others, values, 0).sum(1) / others.sum(1)
    # as a sum of differences, for the mean of equal values may be rounded away from them
    is_above = torch.where(others, values[:, None] - values, 0).sum(1) > 0
    return mean, is_above


def _others(comparable: Tensor) -> Tensor:
    return comparable & ~torch.eye(len(comparable), dtype=torch.bool, device=comparable.device)


def _stack(values: Iterable[int | Tensor], like: Tensor | None = None) -> Tensor:
    """Stacks scalars in at least float32 on one device, that of `like` or else of the first."""
    values = list(values)
    device = values[0].device if like is None else like.device
    # `torch.full` fills on the device, where `torch.tensor` would copy from the host and wait
    values = [v if isinstance(v, Tensor) else torch.full((), v, device=device) for v in values]
    return torch.stack([v.to(device, torch.promote_types(v.dtype, torch.float32)) for v in values])


def _mean_norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    """Mean of the L2 norms of whole gradients: those of sharded ones are completed by one all-reduce."""
    norms = []
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    for group in filter(None, (sharded, whole)):
        dtype = functools.reduce(torch.promote_types, (gradient.dtype for gradient in group), torch.float32)
        stacked = torch.stack(torch._foreach_norm(group, 2, dtype=dtype))
        norms.append(stacked.full_tensor() if isinstance(stacked, DTensor) else stacked)
    return torch.cat(norms).mean().to(device, torch.float32) if norms else torch.zeros((), device=device)


def _deviation(gradient: Tensor) -> Tensor:
    """Biased standard deviation of a whole gradient, 0 where it overflows: finite gradients then stay finite."""
    full = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return full.std(correction=0).nan_to_num(nan=0.0, posinf=0.0)


def _noise(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of a gradient; for a sharded one this rank's part of the whole noise."""
    noise = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=gradient.dtype)
    if isinstance(gradient, DTensor):
        # every rank has drawn the same noise, so each keeps its part without communication
        noise = distribute_tensor(noise, gradient.device_mesh, gradient.placements, src_data_rank=None)
    return _local(noise)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
