"""Gradient modulation for multimodal training: a rule's coefficients, pooled statistics and gradient enhancement.

It depends on torch alone, and works with any model with one encoder and one error per modality. The error is the
absolute error of a unimodal head in regression (arXiv:2605.28575, eq. 5-6), and one minus the probability of the true
class in classification (OGM-GE, Peng et al., CVPR 2022, which compares those probabilities).
"""

import itertools
import logging
import random
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .config import ModulationConfig
from .contributions import shapley_values
from .rules import CoefficientRule, ConflictAware, NoBalance, StepStatistics
from .rules.conflict_aware import in_conflict
from .rules.contract import stack_scalars
from .sharded import deviation, local_part, mean_norm, normal_noise


logger = logging.getLogger(__name__)

# Per-modality statistics of a step, in the order of the rows of a statistics tensor.
STATISTICS = ("error", "score", "grad_norm", "coefficient", "conflict", "damped")

# Contributions cost evaluations, so they are made anew at one of so many steps.
CONTRIBUTIONS_EVERY = 8


class GradientModulator:
    """Balances the encoders of a multimodal model by modulating their gradients once per optimizer step.

    In a plain PyTorch loop, for any model with one error per modality:

    ```python
    modulator = GradientModulator({"acoustic": model.acoustic, "visual": model.visual})
    for epoch in range(30):
        for batch, labels in loader:
            loss, errors = model(batch, labels)  # errors: dict name -> (B,)
            loss.backward()
            modulator.observe_samples(errors)
            modulator.step(epoch)
            optimizer.step()
            optimizer.zero_grad()
    ```

    With gradient accumulation `observe_samples` is called for every micro-batch (or `observe`, with sums of what is
    known of the samples) and `step` once, before clipping. Under
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
        config: Options of the modulation. Default: the paper's.
        rule: What makes coefficients of a step's statistics, such as `RULES["ogm"](alpha=0.5)`. Default: CPSL's own
            rule, with the options of `config`.
        likelihood_scale: tau of the score exp(-error / tau) in regression: the mean absolute deviation of the training
            labels from their median. Default: the score is 1 - error, as it is in classification.
        seed: Seed of the noise, and of what a rule draws.
        **options: Fields of [`ModulationConfig`] by name, such as `alpha=0.5` or `target="update"`; they take
            precedence over those of `config`.

    Raises:
        ValueError: If there is no group, a group is empty, two groups share a parameter, an option is out of range, or
            the rule only works with `target="update"`, or options of CPSL's rule are given with another one.
        TypeError: If a group holds something that is not a parameter.
    """

    def __init__(
        self,
        groups: Mapping[str, Iterable[nn.Parameter] | nn.Module],
        config: ModulationConfig | None = None,
        *,
        rule: CoefficientRule | None = None,
        likelihood_scale: float | None = None,
        seed: int = 0,
        **options: Any,
    ):
        self.config = replace(config or ModulationConfig(), **options)
        own_rule = self.config.conflict_aware()
        if rule is not None and own_rule not in (rule, ConflictAware()):
            raise ValueError(f"modulate, penalize, alpha and penalty_factor are options of CPSL's rule, not of {rule}")
        self.rule = rule or own_rule
        self.likelihood_scale = likelihood_scale
        self.seed = seed
        self._parameters = _parameters_by_group(groups)
        if len(groups) < 2 and self.rule.balances:
            logger.warning("Gradient modulation is off: it compares modalities and got only %s.", *groups)
            self.rule = NoBalance()
        if self.rule.needs_update_target and self.config.target != "update":
            raise ValueError(
                f'{type(self.rule).__name__} needs target="update": a gradient of 0 does not stop an optimizer with '
                "momentum or weight decay"
            )

        self._step = 0
        self._totals = torch.zeros(2, len(STATISTICS), len(groups))  # sums and counts since the last `pop_statistics`
        # (4, M): counts and sums of errors, scores and squared errors since the last `step`, and which sums are known
        self._observed: Tensor | None = None
        self._known = {"scores", "squared_errors"}
        self._coalitions: dict[tuple[str, ...], Tensor] | None = None
        self._reported = [name for name in STATISTICS if name != "score"]
        self._warned: set[str] = set()
        self._hooks: list[RemovableHandle] = []  # in the optimizers that are attached
        self._update_scales: dict[nn.Parameter, Tensor] = {}  # for the optimizer step that follows
        self._snapshot: dict[nn.Parameter, Tensor] = {}

    @property
    def modalities(self) -> list[str]:
        """Names of the groups."""
        return list(self._parameters)

    @torch.no_grad()
    def observe_samples(self, errors: Mapping[str, Tensor], presence: Mapping[str, Tensor] | None = None) -> None:
        """Adds the samples of one micro-batch to those of the step.

        Args:
            errors: (B,) by modality: absolute errors in regression, 1 - probability of the true class in
                classification. Modalities that are not modulated are ignored.
            presence: (B,) bool by modality, which samples have it. Default: all.

        Raises:
            ValueError: If a modulated modality is missing from `errors`.
        """
        presence = presence or {}
        sums: dict[str, dict[str, Tensor]] = {"error": {}, "score": {}, "squared_error": {}}
        counts: dict[str, int | Tensor] = {}
        for name, error in self._named_values("errors", errors).items():
            score = 1 - error if self.likelihood_scale is None else torch.exp(-error / self.likelihood_scale)
            values = {"error": error, "score": score, "squared_error": error.square()}
            counts[name] = presence[name].sum() if name in presence else len(error)
            for kind, value in values.items():
                sums[kind][name] = (torch.where(presence[name], value, 0) if name in presence else value).sum()
        self.observe(sums["error"], counts, score_sums=sums["score"], squared_error_sums=sums["squared_error"])

    @torch.no_grad()
    def observe(
        self,
        error_sums: Mapping[str, Tensor],
        count: int | Tensor | Mapping[str, int | Tensor],
        *,
        score_sums: Mapping[str, Tensor] | None = None,
        squared_error_sums: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Adds the sums of one micro-batch to those of the step.

        Args:
            error_sums: Sum over the samples of the micro-batch of each modality's error, 0-dim tensors. Modalities
                that are not modulated are ignored.
            count: Number of samples in the sums, or one number per modality where some samples lack one (0 if all do).
                Tensors should be on the device of the errors.
            score_sums: Sums of the scores (see [`StepStatistics`]), for rules that read them.
            squared_error_sums: Sums of the squared errors, for rules that read them.

        Raises:
            ValueError: If a modulated modality is missing from one of these.
        """
        counts = count if isinstance(count, Mapping) else dict.fromkeys(self._parameters, count)
        sums = stack_scalars(self._named_values("error_sums", error_sums).values())
        rows = [stack_scalars(self._named_values("count", counts).values(), like=sums), sums]
        for argument, values in (("score_sums", score_sums), ("squared_error_sums", squared_error_sums)):
            if values is None:
                self._known.discard(argument.removesuffix("_sums") + "s")
                rows.append(torch.zeros_like(sums))
            else:
                rows.append(stack_scalars(self._named_values(argument, values).values(), like=sums))
        observed = torch.stack(rows)
        self._observed = observed if self._observed is None else self._observed + observed

    def wants_coalitions(self, epoch: float) -> bool:
        """Whether the rule reads contributions, and this step is one that evaluates them and has not yet done so."""
        is_due = self._step % CONTRIBUTIONS_EVERY == 0 and self._coalitions is None
        return is_due and "contributions" in self.rule.needs and self.config.includes(epoch)

    def observe_coalitions(self, error_sums: dict[tuple[str, ...], Tensor]) -> None:
        """Gives the next step the errors that are made when only some of the modalities are known.

        A coalition is worth the share of the error without any modality that it avoids, and a modality's contribution
        is its Shapley value.

        Args:
            error_sums: Sums over samples, 0-dim tensors, of each coalition of modalities, from `()` to all of them.
                Modalities that are not modulated may be among them.
        """
        self._coalitions = error_sums

    @torch.no_grad()
    def step(self, epoch: float, *, grad_scale: float | Tensor = 1.0) -> dict[str, Tensor]:
        """Modulates the accumulated gradients; to be called by all ranks after backward and before clipping.

        Args:
            epoch: Current epoch, counted from 0. Of a fractional one (`TrainerState.epoch`) the integer part counts.
            grad_scale: What the loss was multiplied by if the gradients are still scaled (fp16); the reported norms
                are divided by it. The modulation itself does not depend on it.

        Returns:
            Statistics of the step as 0-dim float tensors: `error_<modality>`, `score_<modality>` (if scores were
            observed), `grad_norm_<modality>`, `coefficient_<modality>`, `conflict_<modality>` and
            `damped_<modality>` (0 or 1), and `imbalance`, the largest difference between two coefficients. Outside the
            window the coefficients are 1.

        Raises:
            RuntimeError: If nothing was observed since the last step, or `target="update"` has no optimizer attached.
            ValueError: If the rule reads what was not observed.
        """
        if self._observed is None:
            raise RuntimeError("step() needs the errors of this step: call observe() for each micro-batch before it")
        if self.config.target == "update" and not self._hooks:
            raise RuntimeError('target="update" scales the optimizer\'s step: call attach(optimizer) before training')
        parameters = {name: self._with_gradient(name) for name in self._parameters}
        observed = self._pooled_statistics(parameters, epoch)
        errors, norms = observed.errors, observed.grad_norms
        coefficients = torch.ones_like(errors)
        self._update_scales = {}
        if self.config.includes(epoch):
            coefficients = self.rule(observed)
            for (name, group), coefficient in zip(parameters.items(), coefficients, strict=True):
                self._modulate(name, group, coefficient)
        self._step += 1

        scores = torch.full_like(errors, torch.nan) if observed.scores is None else observed.scores
        self._reported = [name for name in STATISTICS if name != "score" or observed.scores is not None]
        conflicts = in_conflict(errors, norms)
        statistics = torch.stack([errors, scores, norms / grad_scale, coefficients, conflicts, coefficients < 1])
        # an unobserved modality, or an overflow whose step a GradScaler skips, would stay in the sums for good
        finite = statistics.isfinite()
        self._totals = self._totals.to(errors.device) + torch.stack([torch.where(finite, statistics, 0), finite])
        return self._named(statistics)

    def pop_statistics(self) -> dict[str, Tensor]:
        """Means of the step statistics since the last call, NaN where there was no step; then starts anew.

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
        if self.config.target == "update":
            optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks of its own
            if set(_parameters_of(optimizer)).isdisjoint(itertools.chain(*self._parameters.values())):
                raise ValueError(f"{type(optimizer).__name__} holds no parameter of {', '.join(self._parameters)}")
            self._hooks.append(optimizer.register_step_pre_hook(self._before_update))
            self._hooks.append(optimizer.register_step_post_hook(self._after_update))

    def detach(self) -> None:
        """Leaves the attached optimizers as they were, for a training with another modulator to use them."""
        while self._hooks:
            self._hooks.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """State between two optimizer steps that a restart needs, the rule's own state included."""
        return {
            "modalities": self.modalities,
            "step": self._step,
            "totals": self._totals,
            "likelihood_scale": self.likelihood_scale,
            "rule": type(self.rule).__name__,
            "rule_state": self.rule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of [`~GradientModulator.state_dict`].

        Raises:
            ValueError: If the state belongs to other modalities, to another rule or to another version of the package.
        """
        if state["modalities"] != self.modalities:
            raise ValueError(f"the state is of modalities {state['modalities']}, this modulator has {self.modalities}")
        if state.keys() != self.state_dict().keys():
            raise ValueError("the state was saved by another version of the package; start the training anew")
        if state["rule"] != type(self.rule).__name__:
            raise ValueError(
                f"the state is of the rule {state['rule']}, this modulator has {type(self.rule).__name__}: "
                "balance as before"
            )
        self._step = state["step"]
        self._totals = state["totals"]
        self.likelihood_scale = state["likelihood_scale"]
        self.rule.load_state_dict(state["rule_state"])
        self._observed = None

    def _named_values(self, argument: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the modulated modalities, in their order."""
        if missing := [name for name in self._parameters if name not in values]:
            raise ValueError(f"{argument} lacks {missing}: give 0 for a modality that no sample of the batch has")
        return {name: values[name] for name in self._parameters}

    def _pooled_statistics(self, parameters: Mapping[str, list[nn.Parameter]], epoch: float) -> StepStatistics:
        """The statistics of the step over all ranks; what was observed is then forgotten."""
        observed, self._observed = self._observed, None
        known, self._known = self._known, {"scores", "squared_errors"}
        coalitions, self._coalitions = self._coalitions, None
        assert observed is not None
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(observed)
        errors, scores, squared_errors = observed[1:] / observed[0]
        return StepStatistics(
            scores=scores if "scores" in known else None,
            errors=errors,
            grad_norms=torch.stack(
                [mean_norm([parameter.grad for parameter in group], errors.device) for group in parameters.values()]
            ),
            contributions=None if coalitions is None else self._contributions(coalitions),
            epoch=epoch,
            squared_errors=squared_errors if "squared_errors" in known else None,
            step=self._step,
            seed=self.seed,
        )

    def _with_gradient(self, name: str) -> list[nn.Parameter]:
        parameters = [
            parameter for parameter in self._parameters[name] if parameter.requires_grad and parameter.grad is not None
        ]
        if not parameters and name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"no parameter of {name!r} has a gradient: frozen, unused or replaced?", stacklevel=2)
        return parameters

    def _modulate(self, name: str, parameters: list[nn.Parameter], coefficient: Tensor) -> None:
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        coefficient = coefficient.to(gradients[0].device)
        enhance = self.config.enhance and self.rule.enhances
        deviations = [deviation(gradient) for gradient in gradients] if enhance else []
        if self.config.target == "gradient":
            torch._foreach_mul_([local_part(gradient) for gradient in gradients], coefficient)
        else:
            self._update_scales |= dict.fromkeys(parameters, coefficient)
        if enhance:
            seed = random.Random(f"{self.seed}/{self._step}/{name}").getrandbits(63)
            generator = torch.Generator(gradients[0].device).manual_seed(seed)
            for gradient, scale in zip(gradients, deviations, strict=True):
                local_part(gradient).add_(normal_noise(gradient, generator) * scale)

    def _contributions(self, error_sums: dict[tuple[str, ...], Tensor]) -> Tensor:
        """The Shapley values (M,) of the modulated modalities, over the samples of all ranks."""
        sums = torch.stack([*error_sums.values()]).float()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        pooled = dict(zip(error_sums, sums, strict=True))
        names = max(pooled, key=len)
        values = {coalition: 1 - error / pooled[()] for coalition, error in pooled.items() if coalition}
        shares = dict(zip(names, shapley_values(values, names), strict=True))
        return torch.stack([shares[name] for name in self._parameters])

    @torch.no_grad()
    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        to_scale = self._update_scales.keys() & set(_parameters_of(optimizer))
        self._snapshot = {parameter: local_part(parameter).clone() for parameter in to_scale}

    @torch.no_grad()
    def _after_update(self, *_: Any) -> None:
        for parameter, before in self._snapshot.items():
            # a coefficient holds for one step; this way round one of 1 leaves the parameter as it is, bit for bit
            weight = 1 - self._update_scales.pop(parameter)
            local_part(parameter).lerp_(before, weight.to(before.dtype))
        self._snapshot = {}

    def _named(self, statistics: Tensor) -> dict[str, Tensor]:
        named = {
            f"{statistic}_{name}": value
            for statistic, row in zip(STATISTICS, statistics, strict=True)
            if statistic in self._reported
            for name, value in zip(self._parameters, row, strict=True)
        }
        coefficients = statistics[STATISTICS.index("coefficient")]
        return {**named, "imbalance": coefficients.amax() - coefficients.amin()}


def _parameters_by_group(groups: Mapping[str, Iterable[nn.Parameter] | nn.Module]) -> dict[str, list[nn.Parameter]]:
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


__all__ = ["GradientModulator"]
