"""Eq. 1-4 end to end: the forward pass and its losses, written out a second time, and what must not matter."""

import math
import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from modeling_cpsl.encoding_cpsl import pooled_feature_bounds
from modeling_cpsl.modeling_cpsl import default_feature_mask


THREE = {"acoustic": 5, "timing": 2, "visual": 3}
SIZES = [{"acoustic": 5}, {"acoustic": 5, "visual": 3}, THREE]
each_backbone = pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])
each_fusion = pytest.mark.parametrize("fusion", ["gated", "concat", "sum", "attention"])
each_normalization = pytest.mark.parametrize("normalization", ["minmax_running", "minmax_batch", "none"])
with_and_without_ame = pytest.mark.parametrize("ame", [True, False])


def affine(module, x):
    return x @ module.weight.T + module.bias


def features_of(batch):
    given = {**batch, **batch.get("extra_features", {})}
    return {name: given[name] for name in THREE if name in given}


def make_noise(batch, latent_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = batch["attention_mask"].shape
    return {name: torch.randn(*shape, latent_size, generator=generator) for name in features_of(batch)}


def reference(model, batch, noise):
    """Eq. 1-4 for acoustic and visual in training without dropout: logits, unimodal logits and losses by name."""
    part, config = model.multimodal, model.config
    mask = batch["attention_mask"].clone()
    for row in mask:
        attended = row.nonzero()
        row[attended[0]] = row[attended[-1]] = 0

    def pool(sequence):
        rows = [tokens[kept.bool()] for tokens, kept in zip(sequence, mask, strict=True)]
        return torch.stack([row.mean(dim=0) if len(row) else torch.zeros(sequence.shape[-1]) for row in rows])

    hidden = model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    latents, losses = {}, dict.fromkeys(["reconstruction", "diversity", "statistical"], 0.0)
    for name in ("acoustic", "visual"):
        values = batch[name][mask.bool()]
        x = (batch[name] - values.min()) / (values.max() - values.min()) * mask[..., None]
        encoder = part.encoders[name]
        trunk = affine(encoder.trunk[0], x).relu()
        mu = affine(encoder.mean_head, trunk)
        if config.ame:
            var = torch.log1p(torch.exp(affine(encoder.variance_head, trunk)))
            latents[name] = mu + noise[name] * torch.sqrt(var + 1e-6)
        else:
            latents[name] = mu
            var = ((mu - mu.mean(dim=-1, keepdim=True)) ** 2).mean(dim=-1, keepdim=True)
        decoder = part.decoders[name]
        rebuilt = affine(decoder[2], affine(decoder[0], latents[name]).relu())
        hat_var = ((x - x.mean(dim=-1, keepdim=True)) ** 2).mean(dim=-1)
        losses["reconstruction"] += 1 / 2 * pool((x - rebuilt) ** 2).mean()
        losses["statistical"] += 1 / 4 * pool(((mu.mean(dim=-1) - x.mean(dim=-1)) ** 2)[..., None]).mean()
        losses["statistical"] += 1 / 4 * pool(((var.mean(dim=-1) - hat_var) ** 2)[..., None]).mean()
        losses["diversity"] -= 1 / 2 * pool(0.5 * torch.log(2 * math.pi * math.e * (var + 1e-6))).mean()

    fusion = part.fusion
    h_a, h_v = (torch.tanh(affine(fusion.transforms[name], latents[name])) for name in latents)
    gate = 1 / (1 + torch.exp(-affine(fusion.gate, torch.cat(list(latents.values()), dim=-1))))
    fused = gate * h_a + (1 - gate) * h_v
    shift = torch.tanh(affine(part.injection.projection, fused)) * mask[..., None]
    injected = hidden + config.residual_weight * shift
    normed = F.layer_norm(injected, (config.hidden_size,), part.norm.weight, part.norm.bias, config.layer_norm_eps)
    logits = affine(part.out_proj, torch.tanh(affine(part.dense, pool(normed)))).squeeze(-1)

    pooled = {"text": pool(hidden), **{name: pool(latent) for name, latent in latents.items()}}
    unimodal = {name: affine(part.unimodal_heads[name][1], value).squeeze(-1) for name, value in pooled.items()}
    labels = batch["labels"]
    losses["unimodal"] = sum(((value - labels) ** 2).mean() for value in unimodal.values())
    error = (logits - labels).abs()
    losses["task"] = {
        "mse": (error**2).mean(),
        "l1": error.mean(),
        "smooth_l1": torch.where(error < 1, error**2 / 2, error - 0.5).mean(),
    }[config.task_loss]
    if not config.sl:
        del losses["statistical"]
    return logits, unimodal, losses


class TestInitialWeights:
    @each_backbone
    @each_fusion
    def test_layers_of_the_features_differ_from_those_of_the_text_encoders_width(self, make_config, backbone, fusion):
        config = make_config(backbone, modality_sizes=THREE, latent_size=90, fusion_size=110, fusion=fusion)
        torch.manual_seed(0)
        part = AutoModelForSequenceClassification.from_config(config).multimodal
        for name, layer in part.named_modules():
            if not isinstance(layer, torch.nn.Linear) or layer.weight.numel() < 100:
                continue
            if name.startswith(("encoders", "decoders", "fusion")):
                expected = math.sqrt(2 / sum(layer.weight.shape))  # Glorot and Bengio (2010)
            else:
                assert name.startswith(("injection", "dense"))
                expected = config.initializer_range
            assert_close(layer.weight.std().item(), expected, rtol=0.2, atol=0.0)

    def test_dropout_adds_little_to_a_new_models_predictions(self, make_config, make_batch):
        """With heads as wide as Glorot's, dropout alone gave those over all-mpnet-base-v2 a variance of .7."""
        torch.manual_seed(0)
        config = make_config(classifier_dropout=0.5)
        model = AutoModelForSequenceClassification.from_config(config).train()
        batch = make_batch(model.config, labels=False)
        predictions = torch.stack([model(**batch).logits.detach() for _ in range(200)])
        assert predictions.var(dim=0).max() < 0.02


class TestForward:
    @each_backbone
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"ame": False},
            {"sl": False, "task_loss": "l1"},
            {
                "residual_weight": 0.3,
                "task_loss": "smooth_l1",
                "statistical_weight": 0.7,
                "reconstruction_weight": 0.2,
            },
        ],
        ids=["full", "ame_off", "sl_off", "weights"],
    )
    def test_equals_the_method_written_out(self, make_model, make_batch, backbone, fields):
        model = make_model(backbone, **fields).train()
        batch = make_batch(model.config, lengths=(8, 6, 3, 2))  # the last one has no feature token
        noise = make_noise(batch)
        logits, unimodal, losses = reference(model, batch, noise)
        output = model(**batch, latent_noise=noise)
        assert_close(output.logits, logits)
        assert set(output.unimodal_logits) == {"text", "acoustic", "visual"}
        for name, value in unimodal.items():
            assert_close(output.unimodal_logits[name], value)
            assert_close(output.modality_errors[name], (value - batch["labels"]).abs())
        assert set(output.losses) == set(losses)
        for name, value in losses.items():
            assert_close(output.losses[name], value, msg=lambda text, name=name: f"{name}: {text}")
        weights = {"task": 1.0, "reconstruction": 1.0, "unimodal": 0.5, "diversity": 0.1, "statistical": 0.1}
        weights |= {name.removesuffix("_weight"): value for name, value in fields.items() if name.endswith("_weight")}
        assert_close(output.loss, sum(weights[name] * value for name, value in losses.items()))

    def test_losses_are_means_over_any_number_of_modalities(self, make_model, make_batch):
        """Reconstruction, statistical and diversity losses of three equal modalities are those of one."""
        sizes = dict.fromkeys(["acoustic", "timing", "visual"], 4)
        one, three = make_model(modality_sizes={"acoustic": 4}), make_model(modality_sizes=sizes)
        for parts in (three.multimodal.encoders, three.multimodal.decoders):
            source = getattr(one.multimodal, "encoders" if parts is three.multimodal.encoders else "decoders")
            for module in parts.values():
                module.load_state_dict(source["acoustic"].state_dict())
        batch = make_batch(one.config)
        features = batch["acoustic"]
        losses = one(**batch).losses
        same = three(**batch, visual=features, extra_features={"timing": features}).losses
        for name in ("reconstruction", "diversity", "statistical"):
            assert_close(same[name], losses[name])

    def test_evaluation_is_deterministic_and_uses_the_mean(self, make_model, make_batch):
        model = make_model(encoder_dropout=0.3, classifier_dropout=0.5)
        batch = make_batch(model.config)
        first, second = model(**batch), model(**batch, latent_noise=make_noise(batch))
        assert torch.equal(first.logits, second.logits) and torch.equal(first.loss, second.loss)
        model.train()
        assert not torch.equal(model(**batch).logits, model(**batch).logits)

    def test_training_draws_fresh_noise_with_ame_only(self, make_model, make_batch):
        for ame in (True, False):
            model = make_model(ame=ame).train()
            batch = make_batch(model.config)
            assert torch.equal(model(**batch).logits, model(**batch).logits) != ame

    def test_micro_batches_add_up_to_the_whole(self, make_model, make_batch):
        """With bounds pooled over the step, the size-weighted gradients of the parts are those of the whole batch."""
        whole, parts = make_model().train(), make_model().train()
        batch = make_batch(whole.config, lengths=(8, 6, 3, 8, 2))
        noise, mask = make_noise(batch), default_feature_mask(batch["attention_mask"])
        bounds = {name: pooled_feature_bounds([(batch[name], mask)]) for name in noise}
        loss = whole(**batch, latent_noise=noise)
        loss.loss.backward()
        for part in (slice(0, 2), slice(2, 5)):
            piece = {name: value[part] for name, value in batch.items()}
            output = parts(
                **piece,
                feature_bounds=bounds,
                latent_noise={name: value[part] for name, value in noise.items()},
            )
            (output.loss * len(piece["labels"]) / 5).backward()
        parts.update_feature_bounds(bounds)
        for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
            assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        for one, other in zip(whole.multimodal.buffers(), parts.multimodal.buffers(), strict=True):
            assert_close(one, other)


class TestLabels:
    def test_a_column_of_labels_is_as_good(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config)
        column = batch | {"labels": batch["labels"][:, None]}
        assert torch.equal(model(**column).loss, model(**batch).loss)

    @pytest.mark.parametrize("shape", [(1,), (2,), (3, 3), (1, 3), ()])
    def test_other_shapes_are_refused(self, make_model, make_batch, shape):
        model = make_model()
        with pytest.raises(ValueError, match=r"labels have shape .*, expected \(3,\)"):
            model(**make_batch(model.config) | {"labels": torch.zeros(shape)})


class TestGradients:
    @each_backbone
    @each_fusion
    @with_and_without_ame
    @pytest.mark.parametrize("sizes", SIZES, ids=len)
    def test_every_parameter_has_one(self, make_model, make_batch, backbone, fusion, ame, sizes):
        model = make_model(backbone, fusion=fusion, ame=ame, modality_sizes=sizes).train()
        model(**make_batch(model.config)).loss.backward()
        idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
        # An equal shift of all keys cancels in the attention's softmax; DeBERTa's keys meet its positions as well.
        cancelling = ("key.bias", "attn.k.bias") if backbone != "deberta" else ()
        assert [name for name in idle if not name.endswith(cancelling)] == []
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_the_task_alone_reaches_every_modality_encoder(self, make_model, make_batch):
        model = make_model().train()
        model(**make_batch(model.config)).losses["task"].backward()
        for name in ("acoustic", "visual"):
            assert all(p.grad.abs().max() > 0 for p in model.multimodal.encoders[name].parameters())

    @each_backbone
    def test_modality_parameters(self, make_model, backbone):
        model = make_model(backbone, modality_sizes=THREE)
        for name in THREE:
            expected = {f"multimodal.encoders.{name}.{part}" for part in ("trunk.0", "mean_head", "variance_head")}
            found = {id(p) for p in model.modality_parameters(name)}
            names = {n.rsplit(".", 1)[0] for n, p in model.named_parameters() if id(p) in found}
            assert names == expected
        assert {id(p) for p in model.modality_parameters("text")} == {id(p) for p in model.base_model.parameters()}
        with pytest.raises(ValueError, match=r"pose.*acoustic, timing, visual"):
            model.modality_parameters("pose")


class TestWhatATrainerNeeds:
    @each_backbone
    def test_names(self, make_model, make_batch, backbone):
        model = make_model(backbone, modality_sizes=THREE)
        output = model(**make_batch(model.config))
        assert model.modality_names == ["text", "acoustic", "timing", "visual"] == list(output.modality_errors)
        assert model.loss_names == list(output.losses)
        assert make_model(backbone, use_text=False).modality_names == ["acoustic", "visual"]

    @each_normalization
    def test_normalized_modalities_are_those_whose_bounds_move(self, make_model, make_batch, normalization):
        model = make_model(feature_normalization=normalization).train()
        model(**make_batch(model.config))
        moved = [name for name, part in model.multimodal.normalizers.items() if part.num_updates > 0]
        assert model.normalized_modalities == moved == ([] if normalization == "none" else ["acoustic", "visual"])

    @with_and_without_ame
    def test_noise_of_the_shapes_that_it_names_is_what_it_draws(self, make_model, make_batch, ame):
        model = make_model(ame=ame, modality_sizes=THREE).train()
        batch = make_batch(model.config)
        shapes = model.latent_noise_shapes(8)
        assert shapes == ({"acoustic": (8, 7), "timing": (8, 7), "visual": (8, 7)} if ame else {})
        noise = {name: torch.zeros(len(batch["labels"]), *shape) for name, shape in shapes.items()}
        assert torch.equal(model(**batch, latent_noise=noise).loss, model(**batch, latent_noise=noise).loss)

    def test_training_forgets_a_calibration(self, make_model):
        model = make_model(interval_half_widths={"text": 1.0}, interval_coverage=0.9)
        model.prepare_for_training()
        assert model.config.interval_half_widths is None and model.config.interval_coverage is None


class TestWhatMatters:
    @each_backbone
    @each_fusion
    @pytest.mark.parametrize("name", ["acoustic", "visual"])
    def test_shuffling_a_modality_over_samples_changes_the_logits(
        self, make_model, make_batch, backbone, fusion, name
    ):
        model = make_model(backbone, fusion=fusion, feature_normalization="none")
        batch = make_batch(model.config)
        shuffled = {**batch, name: batch[name].roll(1, dims=0)}
        assert (model(**batch).logits - model(**shuffled).logits).abs().min() > 1e-5

    @each_backbone
    def test_under_cls_pooling_it_does_not_and_the_model_says_so(self, make_model, make_config, make_batch, backbone):
        config = make_config(backbone, pooling="cls")
        with pytest.warns(UserWarning, match=r"pooling='cls'.*pooling='mean'"):
            type(make_model(backbone))(config)
        model = make_model(backbone, pooling="cls")
        batch = make_batch(config)
        shuffled = {**batch, "acoustic": batch["acoustic"].roll(1, 0), "visual": batch["visual"].roll(1, 0)}
        assert torch.equal(model(**batch).logits, model(**shuffled).logits)

    def test_cls_pooling_of_text_alone_is_silent(self, make_config, make_model):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            type(make_model())(make_config(pooling="cls", modality_sizes={}))

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_text_changes_the_logits(self, make_model, make_batch, pooling):
        model = make_model(pooling=pooling)
        batch = make_batch(model.config)
        other = {**batch, "input_ids": batch["input_ids"].roll(1, dims=1)}
        assert (model(**batch).logits - model(**other).logits).abs().min() > 1e-5


class TestWhatMustNotMatter:
    @each_backbone
    @pytest.mark.parametrize("normalization", ["minmax_running", "none"])
    @pytest.mark.parametrize("pooling", ["mean", "cls", "attention"])
    def test_padding_and_neighbours(self, make_model, make_batch, backbone, normalization, pooling):
        model = make_model(backbone, feature_normalization=normalization, pooling=pooling)
        model.train()(**make_batch(model.config, seed=9))  # sets the running bounds
        model.eval()
        lengths = (8, 6, 3)
        batch = make_batch(model.config, lengths)
        together = model(**batch)
        for sample, length in enumerate(lengths):
            alone = model(
                **{
                    name: value[sample : sample + 1, :length] if value.dim() > 1 else value[sample : sample + 1]
                    for name, value in batch.items()
                }
            )
            assert_close(alone.logits[0], together.logits[sample], rtol=0, atol=1e-5)
            for name, value in alone.unimodal_logits.items():
                assert_close(value[0], together.unimodal_logits[name][sample], rtol=0, atol=1e-5)

    def test_minmax_batch_depends_on_the_neighbours(self, make_model, make_batch):
        """So that the test above cannot pass for the wrong reason."""
        model = make_model(feature_normalization="minmax_batch")
        batch = make_batch(model.config)
        alone = model(**{name: value[:1] for name, value in batch.items()})
        assert (alone.logits[0] - model(**batch).logits[0]).abs() > 1e-5

    @each_normalization
    @pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
    @with_and_without_ame
    def test_features_where_no_word_stands(self, make_model, make_batch, normalization, garbage, ame):
        model = make_model(feature_normalization=normalization, ame=ame)
        batch = make_batch(model.config)
        mask = default_feature_mask(batch["attention_mask"])
        presence = {"acoustic": torch.tensor([True, False, True]), "visual": torch.tensor([True, True, False])}
        dirty = {
            name: torch.where((mask & present[:, None])[..., None], batch[name], garbage)
            for name, present in presence.items()
        }
        noise = make_noise(batch)
        for training in (False, True):
            model.train(training)
            clean = model(**batch, modality_mask=presence, latent_noise=noise)
            output = model(**{**batch, **dirty}, modality_mask=presence, latent_noise=noise)
            assert torch.equal(output.logits, clean.logits)
            assert torch.equal(output.loss, clean.loss)
        model.zero_grad()
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_injection_reaches_feature_tokens_only(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config)
        seen = {}
        model.multimodal.injection.register_forward_hook(lambda _, args, output: seen.update(t=args[0], h=output))
        mask = torch.zeros_like(batch["attention_mask"])
        mask[0, 2:4] = mask[1, 1] = 1
        model(**batch, feature_mask=mask)
        changed = (seen["t"] != seen["h"]).any(dim=-1)
        assert torch.equal(changed, mask.bool())


class TestFeatureMask:
    def test_default_leaves_out_the_first_and_last_attended_token(self):
        attention_mask = torch.tensor(
            [
                [1, 1, 1, 1, 1],
                [1, 1, 1, 0, 0],
                [0, 0, 1, 1, 1],
                [0, 1, 1, 1, 0],
                [1, 1, 0, 0, 0],
                [1, 0, 0, 0, 0],
                [0, 0, 0, 0, 0],
            ]
        )
        expected = torch.tensor(
            [
                [0, 1, 1, 1, 0],
                [0, 1, 0, 0, 0],
                [0, 0, 0, 1, 0],
                [0, 0, 1, 0, 0],
                [0, 0, 0, 0, 0],
                [0, 0, 0, 0, 0],
                [0, 0, 0, 0, 0],
            ]
        )
        assert torch.equal(default_feature_mask(attention_mask).long(), expected)

    def test_it_is_what_the_model_uses(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config)
        mask = default_feature_mask(batch["attention_mask"])
        assert torch.equal(model(**batch).loss, model(**batch, feature_mask=mask).loss)
        assert torch.equal(model(**batch).loss, model(**batch, feature_mask=mask.float()).loss)
        assert not torch.equal(model(**batch).logits, model(**batch, feature_mask=batch["attention_mask"]).logits)

    def test_no_attention_mask_attends_to_everything(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config, lengths=(5, 5))
        everything = model(**batch).logits
        del batch["attention_mask"]
        assert torch.equal(model(**batch).logits, everything)

    def test_a_sample_without_feature_tokens_pools_to_zero(self, make_model, make_batch):
        """Whatever it holds, its logit is that of a pooled vector of zeros."""
        model = make_model()
        logits = model(**make_batch(model.config, lengths=(6, 2, 1))).logits
        part = model.multimodal
        expected = affine(part.out_proj, torch.tanh(part.dense.bias)).squeeze(-1)
        assert_close(logits[1:], expected.expand(2))
