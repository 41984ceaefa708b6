"""Models without text or without features, samples without a modality, latent draws, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from training_cases import make_trainer

from modeling_cpsl.modeling_cpsl import CPSLOutput, default_feature_mask
from modeling_cpsl.pipeline_cpsl import MultimodalSentimentPipeline
from modeling_cpsl.processing_cpsl import CPSLProcessor


each_backbone = pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])
each_fusion = pytest.mark.parametrize("fusion", ["gated", "concat", "sum", "attention", "attention_gate"])
each_missing = pytest.mark.parametrize("missing", ["text", "acoustic", "visual"])
ARGUMENTS = {"text": "input_ids", "acoustic": "acoustic", "visual": "visual"}


class TestTextAlone:
    @each_backbone
    def test_is_plain_regression(self, make_model, make_batch, backbone):
        model = make_model(backbone, modality_sizes={}).train()
        batch = make_batch(model.config)
        output = model(**batch)
        assert set(output.losses) == {"task", "unimodal"}
        assert set(output.unimodal_logits) == {"text"}
        expected = ((output.logits - batch["labels"]) ** 2).mean()
        expected = expected + 0.5 * ((output.unimodal_logits["text"] - batch["labels"]) ** 2).mean()
        assert_close(output.loss, expected)
        assert not any(
            part in name for name, _ in model.named_parameters() for part in ("fusion", "encoders", "injection")
        )
        output.loss.backward()
        idle = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
        assert all(name.endswith(("key.bias", "attn.k.bias")) for name in idle)

    def test_is_what_full_cpsl_gives_where_voice_and_face_are_missing(self, make_model, make_batch):
        full, text = make_model(), make_model(modality_sizes={})
        text.load_state_dict({name: value for name, value in full.state_dict().items() if name in text.state_dict()})
        batch = make_batch(text.config)
        assert_close(full(**batch).logits, text(**batch).logits)

    def test_refuses_features(self, make_model, make_batch):
        model = make_model(modality_sizes={})
        with pytest.raises(ValueError, match=r"acoustic.*text"):
            model(**make_batch(model.config), acoustic=torch.zeros(3, 8, 5))


class TestFeaturesAlone:
    @each_backbone
    @each_fusion
    def test_every_feature_row_is_a_token(self, make_model, make_batch, backbone, fusion):
        model = make_model(backbone, use_text=False, fusion=fusion).train()
        output = model(**make_batch(model.config))
        assert set(output.losses) == {"task", "unimodal", "reconstruction", "diversity", "statistical"}
        assert set(output.unimodal_logits) == {"acoustic", "visual"}
        output.loss.backward()
        idle = {n for n, p in model.multimodal.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
        assert not idle

    def test_first_and_last_rows_count(self, make_model, make_batch):
        model = make_model(use_text=False, feature_normalization="none")
        batch = make_batch(model.config)
        for token in (0, 7):
            other = {**batch, "acoustic": batch["acoustic"].clone()}
            other["acoustic"][0, token] += 3.0
            assert model(**other).logits[0] != model(**batch).logits[0]
            assert torch.equal(model(**other).logits[1:], model(**batch).logits[1:])

    @pytest.mark.parametrize("use_text", [True, False])
    def test_all_rows_count_where_no_mask_is_given(self, make_model, make_batch, use_text):
        model = make_model(use_text=use_text)
        batch = {name: value for name, value in make_batch(model.config).items() if name in ("acoustic", "visual")}
        expected = model(**batch, feature_mask=torch.ones(batch["acoustic"].shape[:2])).logits
        assert torch.equal(model(**batch).logits, expected)

    def test_padding_and_neighbours(self, make_model, make_batch):
        model = make_model(use_text=False)
        batch = make_batch(model.config, (8, 6, 3))
        together = model(**batch).logits
        for sample, length in enumerate((8, 6, 3)):
            alone = model(**{n: batch[n][sample : sample + 1, :length] for n in ("acoustic", "visual")})
            assert_close(alone.logits[0], together[sample], rtol=0, atol=1e-5)

    def test_nothing_given(self, make_model):
        model = make_model(use_text=False)
        with pytest.raises(ValueError, match="no modality is given"):
            model(input_ids=torch.full((1, 4), 5))


class TestMissing:
    @each_backbone
    @each_missing
    @each_fusion
    def test_a_masked_modality_is_one_that_is_not_given(self, make_model, make_batch, backbone, missing, fusion):
        model = make_model(backbone, fusion=fusion)
        batch = make_batch(model.config)
        batch["feature_mask"] = default_feature_mask(batch["attention_mask"])
        present = torch.tensor([True, False, True])
        masked = model(**batch, modality_mask={missing: present})
        absent = model(**{name: value for name, value in batch.items() if name != ARGUMENTS[missing]})
        whole = model(**batch)
        for sample, is_present in enumerate(present):
            other = whole if is_present else absent
            assert_close(masked.logits[sample], other.logits[sample], rtol=0, atol=1e-5)
            for name in masked.unimodal_logits:
                assert_close(
                    masked.unimodal_logits[name][sample], other.unimodal_logits[name][sample], rtol=0, atol=1e-5
                )
        assert torch.equal(masked.modality_presence[missing], present)
        assert not absent.modality_presence[missing].any()
        assert masked.modality_errors[missing][1] == 0
        if missing != "text":
            assert masked.fusion_weights[missing][1] == 0
            assert (masked.fusion_weights[missing][[0, 2]] > 0).all()

    @each_missing
    @each_fusion
    def test_all_missing_in_a_batch_trains_finitely(self, make_model, make_batch, missing, fusion):
        model = make_model(fusion=fusion).train()
        batch = make_batch(model.config)
        nobody = torch.zeros(3, dtype=torch.bool)
        for inputs in (
            {name: value for name, value in batch.items() if name != ARGUMENTS[missing]},
            {**batch, "modality_mask": {missing: nobody}},
            {**batch, "modality_mask": dict.fromkeys(["acoustic", "visual"], nobody)},
            {**batch, "modality_mask": dict.fromkeys(["text", "acoustic", "visual"], nobody)},
        ):
            model.zero_grad()
            output = model(**inputs)
            output.loss.backward()
            assert output.loss.isfinite() and output.logits.isfinite().all()
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    @each_backbone
    @each_fusion
    def test_any_subset_in_any_sample_is_as_that_sample_alone(self, make_model, make_batch, backbone, fusion):
        """Every non-empty subset in one batch, against a call without the argument and what stood in it."""
        model = make_model(backbone, fusion=fusion)
        subsets = [set(chosen) for size in (1, 2, 3) for chosen in itertools.combinations(ARGUMENTS, size)]
        batch = make_batch(model.config, lengths=(8, 3, 6, 5, 8, 4, 7), labels=False)
        batch["feature_mask"] = default_feature_mask(batch["attention_mask"])
        mask = {name: torch.tensor([name in subset for subset in subsets]) for name in ARGUMENTS}
        for name in ("acoustic", "visual"):
            batch[name][~mask[name]] = 1e4
        together = model(**batch, modality_mask=mask)
        for sample, subset in enumerate(subsets):
            given = {"attention_mask", "feature_mask", *(ARGUMENTS[name] for name in subset)}
            alone = model(**{name: batch[name][sample : sample + 1] for name in given})
            assert alone.logits.isfinite().all()
            assert_close(together.logits[sample], alone.logits[0], rtol=0, atol=1e-5)
            weights = {name: together.fusion_weights[name][sample] for name in ("acoustic", "visual")}
            assert {name for name, weight in weights.items() if weight > 0} == subset - {"text"}
            if fusion in ("gated", "attention", "attention_gate") and subset != {"text"}:
                assert_close(sum(weights.values()), torch.tensor(1.0))

    @pytest.mark.parametrize("use_text", [True, False])
    def test_from_the_processor_any_subset_is_as_that_sample_alone(self, make_model, unigram_tokenizer, use_text):
        """None for words, voice or face of a sample; lengths that differ, so that padding must not matter either."""
        names = [name for name in ARGUMENTS if use_text or name != "text"]
        subsets = [set(chosen) for size in range(1, len(names) + 1) for chosen in itertools.combinations(names, size)]
        processor = CPSLProcessor(unigram_tokenizer, {"acoustic": 5, "visual": 3}, use_text=use_text)
        model = make_model(use_text=use_text, vocab_size=len(unigram_tokenizer))
        utterances = []
        for index, subset in enumerate(subsets):
            count = 2 + index
            given = {"words": ["great"] * count, "acoustic": torch.randn(count, 5), "visual": torch.randn(count, 3)}
            kept = {"words" if name == "text" else name for name in subset}
            utterances.append({name: value if name in kept else None for name, value in given.items()})
        columns = {name: [utterance[name] for utterance in utterances] for name in utterances[0]}
        if not use_text:
            del columns["words"]
        together = model(**processor(**columns))
        for index, utterance in enumerate(utterances):
            alone = model(**processor(**utterance))
            assert_close(together.logits[index], alone.logits[0], rtol=0, atol=1e-5)
            for name in names:
                assert together.modality_presence[name][index] == alone.modality_presence[name][0]
                assert bool(alone.modality_presence[name][0]) == (name in subsets[index])

    @each_missing
    def test_a_missing_modality_teaches_its_own_parts_nothing(self, make_model, make_batch, missing):
        model = make_model().train()
        batch = make_batch(model.config)
        output = model(**batch, modality_mask={missing: torch.zeros(3, dtype=torch.bool)})
        output.loss.backward()
        unused = [*model.modality_parameters(missing), *model.multimodal.unimodal_heads[missing].parameters()]
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in unused)

    @pytest.mark.parametrize("name", ["acoustic", "visual"])
    def test_losses_count_a_missing_sample_as_zero(self, make_model, make_batch, name):
        """Two samples of which one lacks a modality: its losses are half of the other sample's alone."""
        model = make_model(modality_sizes={name: 5}, feature_normalization="none", ame=True)
        batch = make_batch(model.config, lengths=(8, 6))
        both = model(**batch, modality_mask={name: torch.tensor([True, False])}).losses
        alone = model(**{key: value[:1] for key, value in batch.items()}).losses
        for loss in ("reconstruction", "diversity", "statistical"):
            assert_close(both[loss], alone[loss] / 2)

    @pytest.mark.parametrize("name", ["acoustic", "visual"])
    def test_a_missing_modality_pools_to_zero(self, make_model, make_batch, name):
        model = make_model()
        output = model(**make_batch(model.config), modality_mask={name: torch.tensor([True, False, True])})
        bias = model.multimodal.unimodal_heads[name][1].bias
        assert_close(output.unimodal_logits[name][1:2], bias)
        assert (output.unimodal_logits[name][[0, 2]] != bias).all()

    def test_the_unimodal_loss_counts_those_that_have_the_modality(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config)
        given = {"acoustic": torch.tensor([True, False, True]), "text": torch.tensor([False, True, True])}
        output = model(**batch, modality_mask=given)
        expected = 0.0
        for name, logits in output.unimodal_logits.items():
            for sample in range(3):
                if name not in given or given[name][sample]:
                    expected += (logits[sample] - batch["labels"][sample]) ** 2 / 3
        assert_close(output.losses["unimodal"], expected)

    def test_a_missing_modality_leaves_the_running_bounds(self, make_model, make_batch):
        model = make_model().train()
        batch = make_batch(model.config)
        batch["acoustic"][1] = 1000.0
        model(**batch, modality_mask={"acoustic": torch.tensor([True, False, True])})
        assert model.multimodal.normalizers["acoustic"].maximum < 10
        before = model.multimodal.normalizers["visual"].num_updates.item()
        model(**{name: value for name, value in batch.items() if name != "visual"})
        assert model.multimodal.normalizers["visual"].num_updates == before

    def test_fusion_weights_of_all_present_sum_to_one(self, make_model, make_batch):
        model = make_model(modality_sizes={"acoustic": 5, "timing": 2, "visual": 3})
        weights = model(**make_batch(model.config)).fusion_weights
        assert set(weights) == {"acoustic", "timing", "visual"}
        assert_close(sum(weights.values()), torch.ones(3))


class TestLatentDraws:
    def test_mean_and_deviation_of_draws(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config, labels=False)
        single = model(**batch)
        assert single.logits_std is None
        torch.manual_seed(0)
        drawn = model(**batch, num_samples=400)
        assert (drawn.logits_std > 0).all() and drawn.logits_std.shape == drawn.logits.shape == (3,)
        torch.manual_seed(1)
        again = model(**batch, num_samples=400)
        standard_error = (drawn.logits_std / 20) * 2**0.5
        assert ((drawn.logits - again.logits).abs() < 5 * standard_error).all()
        assert_close(again.logits_std, drawn.logits_std, rtol=0.3, atol=0)
        assert not torch.equal(drawn.logits, again.logits)
        torch.manual_seed(0)
        assert torch.equal(model(**batch, num_samples=400).logits, drawn.logits)

    def test_more_variance_gives_more_spread(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config, labels=False)
        spreads = []
        for bias in (-8.0, 0.0, 4.0):
            for encoder in model.multimodal.encoders.values():
                torch.nn.init.constant_(encoder.variance_head.bias, bias)
            torch.manual_seed(0)
            spreads.append(model(**batch, num_samples=50).logits_std.mean())
        assert spreads[0] < spreads[1] < spreads[2]

    def test_without_ame_there_is_no_spread(self, make_model, make_batch):
        model = make_model(ame=False)
        batch = make_batch(model.config, labels=False)
        drawn = model(**batch, num_samples=3)
        assert_close(drawn.logits, model(**batch).logits)
        assert drawn.logits_std.max() < 1e-6

    def test_is_refused_in_training(self, make_model, make_batch):
        model = make_model().train()
        with pytest.raises(ValueError, match=r"num_samples.*eval\(\)"):
            model(**make_batch(model.config), num_samples=2)

    @pytest.mark.parametrize("num_samples", [0, -1])
    def test_a_number_below_one_is_refused(self, make_model, make_batch, num_samples):
        model = make_model()
        with pytest.raises(ValueError, match="num_samples"):
            model(**make_batch(model.config), num_samples=num_samples)


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"acoustic": torch.zeros(3, 8, 6)}, ["acoustic", "(3, 8, 6)", "(3, 8, 5)"]),
            ({"acoustic": torch.zeros(3, 7, 5)}, ["acoustic", "(3, 7, 5)", "(3, 8, 5)"]),
            ({"visual": torch.zeros(2, 8, 3)}, ["visual", "(2, 8, 3)", "(3, 8, 3)"]),
            ({"visual": torch.zeros(3, 8)}, ["visual", "(3, 8)", "(3, 8, 3)"]),
            ({"extra_features": {"pose": torch.zeros(3, 8, 4)}}, ["pose", "acoustic", "visual"]),
            ({"modality_mask": {"pose": torch.ones(3)}}, ["pose", "acoustic", "visual"]),
        ],
    )
    @pytest.mark.parametrize("training", [True, False])
    def test_is_one_line_that_names_it(self, make_model, make_batch, change, words, training):
        model = make_model().train(training)
        before = {name: value.clone() for name, value in model.named_buffers()}
        with pytest.raises(ValueError) as caught:
            model(**{**make_batch(model.config), **change})
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words)
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())

    def test_nothing_given(self, make_model):
        with pytest.raises(ValueError, match="no modality is given"):
            make_model()()

    def test_a_text_model_without_text_needs_no_attention_mask(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config, lengths=(8, 8))
        with_mask = model(acoustic=batch["acoustic"], attention_mask=batch["attention_mask"])
        assert torch.equal(model(acoustic=batch["acoustic"]).logits, with_mask.logits)


class TestOutput:
    def test_tuple(self, make_model, make_batch):
        model = make_model()
        batch = make_batch(model.config)
        output = model(**batch)
        assert isinstance(output, CPSLOutput)
        loss, logits, *_ = model(**batch, return_dict=False)
        assert torch.equal(loss, output.loss) and torch.equal(logits, output.logits)
        assert output[0] is output.loss and output["logits"] is output.logits
        assert output.logits.shape == (3,) and output.loss.shape == ()

    def test_without_labels_there_is_no_loss(self, make_model, make_batch):
        model = make_model()
        output = model(**make_batch(model.config, labels=False))
        assert (output.loss, output.losses, output.modality_errors) == (None, None, None)

    @each_backbone
    def test_hidden_states_and_attentions_on_request(self, make_model, make_batch, backbone):
        model = make_model(backbone)
        model.set_attn_implementation("eager")
        batch = make_batch(model.config)
        output = model(**batch, output_hidden_states=True, output_attentions=True)
        assert len(output.hidden_states) == 3 and len(output.attentions) == 2
        assert output.hidden_states[-1].shape == (3, 8, 16)
        assert model(**batch).hidden_states is None

    def test_integer_labels(self, make_model, make_batch):
        model = make_model()
        batch = {**make_batch(model.config), "labels": torch.tensor([-3, 0, 2])}
        assert torch.equal(model(**batch).loss, model(**{**batch, "labels": batch["labels"].float()}).loss)

    def test_trainer_divides_by_the_accumulation_steps(self, make_model):
        assert make_model().accepts_loss_kwargs is False


def test_the_pipeline_of_a_model_without_text(tmp_path):
    fields = {"use_text": False}
    trainer = make_trainer(tmp_path, num_samples=10, config_fields=fields)
    trainer.processing_class.use_text = False
    sentiment = MultimodalSentimentPipeline(trainer.model.eval(), processor=trainer.processing_class, device="cpu")
    rows = [
        {"words": ["ignored"], "acoustic": np.ones((count, 74)), "visual": np.ones((count, 47))} for count in (2, 5)
    ]
    results = sentiment(rows, batch_size=2)
    assert set(results[0]["modalities"]) == {"acoustic", "visual"}
    assert results[0]["score"] == pytest.approx(sentiment(rows[0])["score"], abs=1e-5)
