"""Modulation in a training: restarts, no host sync, loss scaling, the update target."""

import copy
import functools
import itertools
import math
import textwrap

import pytest
import torch
from accelerate import Accelerator
from host_reads import NoHostRead
from modulation_cases import (
    DAMPED_TIE,
    TwoEncoders,
    assert_equal,
    floats_of,
    gradients_of,
    group,
    groups_with_gradients,
    make_batch,
    observe,
)
from torch import nn

from modeling_cpsl.modulation import RULES, GradientModulator


class TestStatistics:
    def test_means_over_the_steps_since_the_last_call(self):
        modulator = GradientModulator(groups_with_gradients(), enhance=False)
        steps = []
        for acoustic, visual in [(1.0, 2.0), (3.0, 2.0), (1.0, 1.5)]:
            observe(modulator, acoustic, visual)
            steps.append(floats_of(modulator.step(0)))
        means = floats_of(modulator.pop_statistics())
        for key in means.keys() - {"imbalance"}:
            assert means[key] == pytest.approx(sum(step[key] for step in steps) / 3, rel=1e-6)
        assert means["damped_acoustic"] == pytest.approx(2 / 3)
        difference = abs(means["coefficient_acoustic"] - means["coefficient_visual"])
        assert means["imbalance"] == pytest.approx(difference, rel=1e-5)
        assert modulator.pop_statistics()["error_acoustic"].isnan()
        observe(modulator, 5.0, 2.0)
        modulator.step(0)
        assert modulator.pop_statistics()["error_acoustic"] == 5

    def test_state_dict_continues_noise_and_statistics(self, tmp_path):
        def run(modulator, groups, steps):
            for step in steps:
                for name, of in groups_with_gradients().items():
                    for parameter, fresh in zip(groups[name], of, strict=True):
                        parameter.grad = fresh.grad
                observe(modulator, 1.0 + step, 2.5)
                modulator.step(0)

        whole_groups = groups_with_gradients()
        whole = GradientModulator(whole_groups, seed=5)
        run(whole, whole_groups, range(4))

        groups = groups_with_gradients()
        first = GradientModulator(groups, seed=5)
        run(first, groups, range(2))
        torch.save(first.state_dict(), tmp_path / "modulator.pt")
        run(first, groups, range(7, 9))  # must not reach what was saved
        second = GradientModulator(groups, seed=5)
        second.load_state_dict(torch.load(tmp_path / "modulator.pt", weights_only=True))
        run(second, groups, range(2, 4))

        assert_equal(gradients_of(groups), gradients_of(whole_groups))
        assert_equal(second.pop_statistics(), whole.pop_statistics())

    def test_loading_forgets_what_was_observed(self):
        modulator = GradientModulator(groups_with_gradients())
        state = modulator.state_dict()
        observe(modulator, 1.0, 2.0)
        modulator.load_state_dict(state)
        with pytest.raises(RuntimeError, match="call observe"):
            modulator.step(0)

    def test_state_of_other_modalities_is_refused(self):
        state = GradientModulator(groups_with_gradients()).state_dict()
        other = GradientModulator({"text": group((2,)), "visual": group((2,))})
        with pytest.raises(ValueError, match=r"\['acoustic', 'visual'\].*\['text', 'visual'\]"):
            other.load_state_dict(state)

    def test_nothing_keeps_the_graph(self):
        modulator = GradientModulator(groups_with_gradients())
        error = torch.tensor(1.0, requires_grad=True)
        modulator.observe({"acoustic": error * 2, "visual": error}, 1)
        assert not any(value.requires_grad for value in modulator.step(0).values())


class TestNoHostSync:
    def run(self, groups, device="cpu", **options):
        modulator = GradientModulator(groups, **options)
        optimizer = torch.optim.SGD(itertools.chain(*groups.values()), lr=0.1)
        modulator.attach(optimizer)
        errors = {name: torch.zeros((), device=device) for name in groups}
        sums = {"score_sums": errors, "squared_error_sums": errors}
        if modulator.wants_coalitions(0):
            coalitions = [(), ("acoustic",), ("visual",), ("acoustic", "visual")]
            modulator.observe_coalitions({names: torch.ones((), device=device) for names in coalitions})
        for count in (4, {"acoustic": 3, "visual": 0}, torch.ones((), device=device)):
            modulator.observe(errors, count, **sums)
        modulator.step(0, grad_scale=torch.ones((), device=device))
        optimizer.step()
        return modulator.pop_statistics()

    @pytest.mark.parametrize("target", ["gradient", "update"])
    def test_no_value_is_read(self, target):
        groups = groups_with_gradients()
        with NoHostRead():
            statistics = self.run(groups, target=target)
            with pytest.raises(AssertionError, match="_local_scalar_dense"):
                statistics["error_visual"].item()

    @pytest.mark.parametrize("name", list(RULES))
    def test_no_rule_reads_a_value(self, name):
        rule, groups = RULES[name](), groups_with_gradients()
        target = "update" if rule.needs_update_target else "gradient"
        with NoHostRead():
            for _ in range(2):  # the second one has what the first has left
                self.run(groups, target=target, rule=rule)

    @pytest.mark.parametrize("target", ["gradient", "update"])
    def test_no_value_moves_to_the_host(self, target):
        """Meta tensors have no values, so reading one or copying it to the CPU raises; GE has no generator there."""
        groups = {
            name: [nn.Parameter(torch.zeros(p.shape, device="meta")) for p in of]
            for name, of in groups_with_gradients().items()
        }
        for parameter in itertools.chain(*groups.values()):
            parameter.grad = torch.zeros_like(parameter)
        statistics = self.run(groups, device="meta", target=target, enhance=False)
        assert statistics["error_visual"].device.type == "meta"


class TestGradScaler:
    def model(self):
        torch.manual_seed(0)
        model = TwoEncoders()
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(self, modulator, model, optimizer, batch, scaler):
        errors, loss = model(batch)
        scaler.scale(loss).backward()
        modulator.observe({name: error.sum() for name, error in errors.items()}, count=len(batch["labels"]))
        statistics = modulator.step(0, grad_scale=scaler.get_scale())
        scaler.unscale_(optimizer)
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return statistics, gradients

    def test_noise_and_norms_are_those_without_scaler(self):
        """A power of two scales the gradients exactly, so everything must agree bit for bit."""
        results = []
        for enabled in (True, False):
            model, optimizer = self.model()
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled)
            modulator = GradientModulator(model.encoders(), alpha=0.5)
            results.append(self.train_step(modulator, model, optimizer, make_batch(), scaler))
        assert_equal(results[0], results[1])
        assert min(results[0][0][f"coefficient_{name}"] for name in ("acoustic", "visual")) < 1

    @pytest.mark.parametrize("target", ["gradient", "update"])
    @pytest.mark.parametrize("fused", [False, True])
    def test_an_overflow_is_skipped_and_forgotten(self, target, fused):
        model, _ = self.model()
        # fused AdamW is called by the scaler even for a step to skip, others are not
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        modulator = GradientModulator(model.encoders(), target=target)
        modulator.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        train_step = functools.partial(self.train_step, modulator, model, optimizer, scaler=scaler)
        train_step(make_batch())

        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        hook = model.acoustic[0].weight.register_hook(lambda grad: grad * math.inf)
        statistics, _ = train_step(make_batch())
        hook.remove()
        assert_equal(dict(model.named_parameters()), {name: nn.Parameter(w) for name, w in weights.items()})
        assert scaler.get_scale() == 2.0**11
        assert not statistics["grad_norm_acoustic"].isfinite()
        assert all(statistics[f"coefficient_{name}"].isfinite() for name in ("acoustic", "visual"))

        train_step(make_batch())
        assert any(not torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert all(value.isfinite() for value in modulator.pop_statistics().values())

    def test_an_infinite_norm_is_no_conflict(self):
        groups = groups_with_gradients()
        groups["acoustic"][0].grad[0, 0] = math.inf
        modulator = GradientModulator(groups)
        observe(modulator, 1.0, 2.0)
        statistics = modulator.step(0)
        assert statistics["conflict_acoustic"] == 0
        assert not groups["acoustic"][0].grad.isfinite().all()  # the scaler still finds it


class TestUpdateTarget:
    def path(self, optimizer_class, target, steps=30, **options):
        """Lengths of the two modalities' paths in a regression where acoustic's coefficient is 0.238 at every step."""
        torch.manual_seed(0)
        features, teacher = torch.randn(64, 6), torch.randn(6)
        weights = {"acoustic": nn.Parameter(torch.zeros(6)), "visual": nn.Parameter(torch.zeros(6))}
        optimizer = optimizer_class(weights.values(), **options)
        modulator = GradientModulator(
            {name: [weight] for name, weight in weights.items()}, penalize=False, enhance=False, target=target
        )
        modulator.attach(optimizer)
        lengths = dict.fromkeys(weights, 0.0)
        for _ in range(steps):
            before = {name: weight.detach().clone() for name, weight in weights.items()}
            sum((features @ (weight - teacher)).pow(2).mean() for weight in weights.values()).backward()
            observe(modulator, 1.0, 1.000001)
            assert modulator.step(0)["coefficient_acoustic"].item() == pytest.approx(DAMPED_TIE, rel=1e-4)
            optimizer.step()
            optimizer.zero_grad()
            for name, weight in weights.items():
                lengths[name] += (weight.detach() - before[name]).norm().item()
        return lengths["acoustic"] / lengths["visual"]

    def test_acts_under_both_optimizers_where_the_gradient_target_acts_under_one(self):
        sgd = functools.partial(self.path, torch.optim.SGD, lr=0.01)
        adamw = functools.partial(self.path, torch.optim.AdamW, lr=0.001, weight_decay=0.0)
        assert 0.238 < sgd("gradient") < 0.35
        assert adamw("gradient") == pytest.approx(1.0, abs=0.001)
        assert 0.238 < sgd("update") < 0.35
        assert 0.237 < adamw("update") < 0.35

    def test_equals_the_gradient_target_under_plain_sgd(self):
        sgd = functools.partial(self.path, torch.optim.SGD, lr=0.01)
        assert sgd("update") == pytest.approx(sgd("gradient"), rel=1e-5)

    def step(self, modulator, optimizer, groups):
        """One step with a known coefficient: what each parameter was, and what the optimizer alone makes of it."""
        parameters = list(itertools.chain(*groups.values()))
        before = [p.detach().clone() for p in parameters]
        observe(modulator, 1.0, 1.5)
        coefficient = modulator.step(0)["coefficient_acoustic"]
        optimizer.step()
        after = [p.detach().clone() for p in parameters]
        return before, after, coefficient

    def expected(self, groups):
        parameters = [nn.Parameter(p.detach().clone()) for p in itertools.chain(*groups.values())]
        for twin, parameter in zip(parameters, itertools.chain(*groups.values()), strict=True):
            twin.grad = parameter.grad.clone()
        torch.optim.AdamW(parameters, lr=0.1).step()
        return [p.detach() for p in parameters]

    def check(self, groups, result, unmodulated):
        before, after, coefficient = result
        num_acoustic = len(groups["acoustic"])
        for i, (old, new, free) in enumerate(zip(before, after, unmodulated, strict=True)):
            if i < num_acoustic:
                torch.testing.assert_close(new, old + coefficient * (free - old), rtol=1e-5, atol=1e-6)
                assert not torch.equal(new, free)
            else:
                assert_equal(new, free)

    @pytest.mark.parametrize("fused", [False, True])
    def test_scales_the_step_weight_decay_included(self, fused):
        groups = groups_with_gradients()
        unmodulated = self.expected(groups)
        gradients = gradients_of(groups)
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1, fused=fused)
        modulator = GradientModulator(groups, enhance=False, target="update")
        modulator.attach(optimizer)
        modulator.attach(optimizer)  # a second time must not scale twice
        result = self.step(modulator, optimizer, groups)
        assert_equal(gradients_of(groups), gradients)
        self.check(groups, result, unmodulated)

    def test_through_accelerate(self):
        groups = groups_with_gradients()
        unmodulated = self.expected(groups)
        optimizer = Accelerator(cpu=True).prepare(torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1))
        modulator = GradientModulator(groups, enhance=False, target="update")
        modulator.attach(optimizer)
        self.check(groups, self.step(modulator, optimizer, groups), unmodulated)

    def test_two_optimizers(self):
        groups = groups_with_gradients()
        unmodulated = self.expected(groups)
        optimizers = [torch.optim.AdamW(parameters, lr=0.1) for parameters in groups.values()]
        modulator = GradientModulator(groups, enhance=False, target="update")
        for optimizer in optimizers:
            modulator.attach(optimizer)

        class Both:
            def step(self):
                for optimizer in reversed(optimizers):
                    optimizer.step()

        self.check(groups, self.step(modulator, Both(), groups), unmodulated)

    def test_outside_the_window_the_step_is_the_optimizer_s_own(self):
        groups = groups_with_gradients()
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1)
        modulator = GradientModulator(groups, enhance=False, target="update", end_epoch=0)
        modulator.attach(optimizer)
        self.step(modulator, optimizer, groups)
        twin = {name: [nn.Parameter(p.detach().clone()) for p in parameters] for name, parameters in groups.items()}
        twin_optimizer = torch.optim.AdamW(itertools.chain(*twin.values()), lr=0.1)
        twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for one, other in zip(itertools.chain(*groups.values()), itertools.chain(*twin.values()), strict=True):
            other.grad = one.grad.clone()
        observe(modulator, 1.0, 1.5)
        modulator.step(1)
        optimizer.step()
        twin_optimizer.step()
        assert_equal(groups, twin)

    def test_a_coefficient_holds_for_one_step(self):
        """An optimizer outlives its modulator in a second training: what stays attached must not scale its steps."""
        groups = groups_with_gradients()
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1)
        former, modulator = (GradientModulator(groups, enhance=False, target="update") for _ in range(2))
        former.attach(optimizer)
        self.step(former, optimizer, groups)
        optimizer.state.clear()
        unmodulated = self.expected(groups)
        modulator.attach(optimizer)
        self.check(groups, self.step(modulator, optimizer, groups), unmodulated)

    def test_the_coefficient_of_a_skipped_step_is_dropped(self):
        groups = groups_with_gradients()
        optimizer = torch.optim.AdamW(itertools.chain(*groups.values()), lr=0.1)
        modulator = GradientModulator(groups, enhance=False, target="update", end_epoch=0)
        modulator.attach(optimizer)
        observe(modulator, 1.0, 1.5)
        modulator.step(0)  # and a GradScaler skips the optimizer's
        unmodulated = self.expected(groups)
        observe(modulator, 1.0, 1.5)
        modulator.step(1)
        optimizer.step()
        assert_equal([p.detach() for p in itertools.chain(*groups.values())], unmodulated)

    def test_an_optimizer_of_other_parameters_is_refused(self):
        modulator = GradientModulator(groups_with_gradients(), target="update")
        with pytest.raises(ValueError, match="SGD holds no parameter of acoustic, visual"):
            modulator.attach(torch.optim.SGD(group((2,)), lr=0.1))

    def test_an_optimizer_is_detached_without_a_trace(self):
        """Another training with the same optimizer scales its steps once."""
        groups = groups_with_gradients()
        optimizer = torch.optim.SGD(itertools.chain(*groups.values()), lr=0.1)
        modulator = GradientModulator(groups, target="update")
        modulator.attach(optimizer)
        modulator.detach()
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
        observe(modulator, 1.0, 2.0)
        with pytest.raises(RuntimeError, match="call attach"):
            modulator.step(0)

    def test_needs_an_optimizer(self):
        modulator = GradientModulator(groups_with_gradients(), target="update")
        observe(modulator, 1.0, 2.0)
        with pytest.raises(RuntimeError, match="call attach"):
            modulator.step(0)


def test_the_documented_loop_runs_and_has_at_most_ten_lines():
    code = textwrap.dedent(GradientModulator.__doc__.split("```python")[1].split("```")[0]).strip()
    assert len(code.splitlines()) <= 10
    torch.manual_seed(0)
    model = TwoEncoders()
    batch = make_batch()
    start = [parameter.detach().clone() for parameter in model.parameters()]

    def call(batch, labels):
        errors, loss = model(batch)
        return loss, errors

    call.acoustic, call.visual = model.acoustic, model.visual
    exec(
        code,
        {
            "GradientModulator": GradientModulator,
            "model": call,
            "loader": [(batch, batch["labels"])],
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        },
    )
    assert all(not torch.equal(old, new) for old, new in zip(start, model.parameters(), strict=True))
