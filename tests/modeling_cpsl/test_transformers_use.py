"""What people do with any model of transformers, before they read about this one."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close
from torch.utils.data import DataLoader
from training_cases import make_trainer
from transformers import AutoModel, Trainer, TrainingArguments, pipeline
from transformers.utils import logging

from modeling_cpsl import CPSLConfig, CPSLForSentimentRegression, CPSLProcessor
from modeling_cpsl.modeling_cpsl import default_feature_mask


SIZES = {"acoustic": 5, "visual": 3}
TEXTS = ["great movie", "terrible", "the end was great!"]
each_backbone = pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])


class TestInputs:
    @each_backbone
    def test_embeddings_in_place_of_ids(self, make_model, make_batch, backbone):
        model = make_model(backbone)
        batch = make_batch(model.config, lengths=(6, 6))
        embedded = {name: value for name, value in batch.items() if name != "input_ids"}
        embedded["inputs_embeds"] = model.get_input_embeddings()(batch["input_ids"])
        assert_close(model(**embedded).logits, model(**batch).logits)
        del embedded["attention_mask"], batch["attention_mask"]
        assert_close(model(**embedded).logits, model(**batch).logits)

    @pytest.mark.parametrize("modality_sizes", [SIZES, {}])
    @pytest.mark.parametrize("masked", [True, False])
    def test_a_prompt_before_the_words_has_no_features(self, make_model, make_batch, modality_sizes, masked):
        """As prompt tuning puts it there: the masks for features and words that a processor made do not reach it."""
        model = make_model("bert", modality_sizes=modality_sizes)
        batch = make_batch(model.config, lengths=(6, 5))
        if masked:
            batch["feature_mask"] = default_feature_mask(batch["attention_mask"])
        prompt = torch.randn(2, 3, model.config.hidden_size)
        longer = batch | {"attention_mask": torch.cat([torch.ones(2, 3), batch["attention_mask"]], dim=1).long()}
        words = model.get_input_embeddings()(longer.pop("input_ids"))
        longer["inputs_embeds"] = torch.cat([prompt, words], dim=1)
        output, usual = model(**longer), model(**batch)
        assert (output.logits - usual.logits).abs().min() > 1e-6
        for name in modality_sizes:
            assert_close(output.unimodal_logits[name], usual.unimodal_logits[name])

    def test_token_types_and_positions_reach_the_encoder(self, make_model, make_batch):
        model = make_model("bert")
        batch = make_batch(model.config, lengths=(6, 6))
        usual = {"token_type_ids": torch.zeros(2, 6, dtype=torch.long), "position_ids": torch.arange(6)[None]}
        assert_close(model(**batch, **usual).logits, model(**batch).logits)
        for name, values in usual.items():
            assert (model(**batch, **{name: values + 1}).logits - model(**batch).logits).abs().min() > 1e-5

    @each_backbone
    def test_what_a_tokenizer_gives(self, make_model, wordpiece_tokenizer, backbone):
        model = make_model(backbone, vocab_size=60)
        inputs = wordpiece_tokenizer(TEXTS, padding=True, return_token_type_ids=True, return_tensors="pt")
        assert model(**inputs).logits.shape == (3,)

    def test_a_misspelt_input_is_refused(self, make_model, make_batch):
        model = make_model()
        with pytest.raises(TypeError, match="acustic"):
            model(**make_batch(model.config), acustic=torch.zeros(3, 8, 5))


class TestOutputs:
    @each_backbone
    def test_states_and_attentions_by_argument_and_by_config(self, make_model, make_batch, backbone):
        model, batch = make_model(backbone), make_batch(make_model(backbone).config)
        model.set_attn_implementation("eager")
        for option, field in [("output_hidden_states", "hidden_states"), ("output_attentions", "attentions")]:
            assert getattr(model(**batch), field) is None
            asked = getattr(model(**batch, **{option: True}), field)
            assert len(asked) == 2 + (field == "hidden_states")
            setattr(model.config, option, True)
            assert_close(getattr(model(**batch), field), asked)
            assert getattr(model(**batch, **{option: False}), field) is None

    @each_backbone
    def test_tuples_by_argument_and_by_config(self, make_model, make_batch, backbone):
        model, batch = make_model(backbone), make_batch(make_model(backbone).config)
        output = model(**batch)
        asked = model(**batch, return_dict=False)
        model.config.return_dict = False
        for values in (asked, model(**batch)):
            assert isinstance(values, tuple) and len(values) == len(output)
            assert_close(values[:2], (output.loss, output.logits))
        assert_close(model(**batch, return_dict=True).logits, output.logits)


class TestTextClassification:
    @pytest.fixture(params=[SIZES, {}], ids=["three modalities", "text alone"])
    def folder(self, request, make_model, wordpiece_tokenizer, tmp_path):
        make_model("bert", modality_sizes=request.param, vocab_size=60).save_pretrained(tmp_path)
        CPSLProcessor(wordpiece_tokenizer, request.param).save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("saved", ["now", "before"])
    def test_its_score_is_the_prediction(self, folder, wordpiece_tokenizer, saved):
        if saved == "before":
            config = json.loads((folder / "config.json").read_text())
            del config["problem_type"]
            names = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
            (folder / "config.json").write_text(json.dumps(config | names))
        classifier = pipeline("text-classification", model=str(folder))
        inputs = wordpiece_tokenizer(TEXTS, padding=True, return_tensors="pt")
        expected = [
            {"label": "sentiment", "score": pytest.approx(x, abs=1e-6)}
            for x in classifier.model(**inputs).logits.tolist()
        ]
        for batch_size in (1, 2, 8):
            assert classifier(TEXTS, batch_size=batch_size) == expected
        assert classifier(TEXTS[0]) == expected[:1]

    def test_a_name_of_ones_own_is_kept(self):
        config = CPSLConfig(id2label={0: "mood"})
        assert config.id2label == {0: "mood"} and config.problem_type == "regression"
        with pytest.raises(ValueError, match=r"problem_type='multi_label_classification'.*needs the names"):
            CPSLConfig(problem_type="multi_label_classification")


class TestProcessor:
    def test_the_usual_arguments_of_a_tokenizer(self, wordpiece_tokenizer):
        processor = CPSLProcessor(wordpiece_tokenizer, SIZES, max_length=8)
        usual, asked = processor(text=TEXTS), processor(text=TEXTS, padding=True, truncation=True, return_tensors="pt")
        assert_close(dict(asked), dict(usual))
        padded = processor(text=TEXTS[:2], padding="max_length")
        assert padded["input_ids"].shape == (2, 8) and padded["attention_mask"].sum(dim=1).tolist() == [4, 4]

    @pytest.mark.parametrize("option", [{"padding": False}, {"truncation": False}, {"max_length": 9}, {"stride": 1}])
    def test_another_argument_is_refused_by_name(self, wordpiece_tokenizer, option):
        ((name, value),) = option.items()
        with pytest.raises(ValueError, match=f"{name}={value!r}: a call takes .*padding True or 'longest'"):
            CPSLProcessor(wordpiece_tokenizer, SIZES)(text=TEXTS, **option)

    def test_map_over_a_data_set(self, make_model, wordpiece_tokenizer):
        """The rows that `map` makes, in batches as PyTorch makes them, are predicted as by a call."""
        model = make_model("bert", modality_sizes=SIZES | {"pose": 2})
        processor = CPSLProcessor(wordpiece_tokenizer, model.config.modality_sizes, max_length=12)
        rng = np.random.default_rng(0)
        features = {
            name: [rng.normal(size=(2, size)).tolist() for _ in "abcd"]
            for name, size in processor.modality_sizes.items()
        }
        features["visual"][1] = None
        columns = {"id": list("abcd"), "words": [["great", "movie"], ["the", "end"], ["was"] * 2, None], **features}
        dataset = Dataset.from_dict(columns)
        options = {"batched": True, "batch_size": 3, "remove_columns": ["id", "words", "pose"]}
        mapped = dataset.map(processor, fn_kwargs={"padding": "max_length"}, **options)
        expected = processor(
            columns["words"], features["acoustic"], features["visual"], extra_features={"pose": features["pose"]}
        )
        with torch.no_grad():
            (batch,) = DataLoader(mapped.with_format("torch"), batch_size=4)
            assert_close(model(**batch).logits, model(**expected).logits)

    def test_columns_that_rows_lack_are_named_once(self, wordpiece_tokenizer, caplog):
        logging.warning_once.cache_clear()
        processor = CPSLProcessor(wordpiece_tokenizer, SIZES)
        Dataset.from_dict({"text": TEXTS, "voice": TEXTS}).map(processor, batched=True, batch_size=1)
        (record,) = caplog.records
        assert record.getMessage() == "rows have no column for acoustic, visual, which then count as missing"

    def test_lists_on_request(self, wordpiece_tokenizer):
        lists = CPSLProcessor(wordpiece_tokenizer, SIZES)(text=TEXTS, return_tensors=None)
        assert all(isinstance(values, list) and len(values) == 3 for values in lists.values())
        assert lists["modality_mask"][0] == [True, False, False]


def test_auto_model_loads_a_model(make_model, make_batch, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded, batch = AutoModel.from_pretrained(tmp_path), make_batch(model.config)
    assert type(loaded) is CPSLForSentimentRegression
    assert_close(loaded(**batch).logits, model(**batch).logits)


class TestTrainer:
    @pytest.fixture
    def parts(self, tmp_path):
        one = make_trainer(tmp_path)
        return {
            "model": one.model,
            "train_dataset": one.train_dataset,
            "eval_dataset": one.eval_dataset,
            "data_collator": one.data_collator,
        }

    def arguments(self, folder, **options):
        options = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"} | options
        return TrainingArguments(str(folder), dataloader_pin_memory=False, **options)

    def test_transformers_own_trainer_trains_and_evaluates(self, parts, tmp_path):
        trainer = Trainer(args=self.arguments(tmp_path, remove_unused_columns=False), **parts)
        before = parts["model"].multimodal.out_proj.weight.detach().clone()
        trainer.train()
        assert not torch.equal(parts["model"].multimodal.out_proj.weight, before)
        prediction = trainer.predict(parts["eval_dataset"])
        assert prediction.predictions[0].shape == prediction.label_ids.shape == (10,)
        assert prediction.metrics["test_loss"] > 0

    def test_rows_that_map_has_made_train_with_its_own_collator(self, make_model, wordpiece_tokenizer, tmp_path):
        processor, model = CPSLProcessor(wordpiece_tokenizer, SIZES, max_length=12), make_model(vocab_size=60)
        columns = {"words": [["great", "movie"], ["the", "end"], None], "label": [2.0, 0.0, -1.5]}
        columns |= {"acoustic": [np.ones((2, 5)).tolist()] * 3, "visual": [np.ones((2, 3)).tolist(), None, None]}
        options = {"batched": True, "batch_size": 1, "fn_kwargs": {"padding": "max_length"}}
        rows = Dataset.from_dict(columns).map(processor, **options)
        trainer = Trainer(model, self.arguments(tmp_path), train_dataset=rows, eval_dataset=rows)
        trainer.train()
        assert trainer.predict(rows).metrics["test_loss"] > 0

    def test_columns_that_it_has_removed_are_named(self, parts, tmp_path):
        with pytest.raises(ValueError, match=r"rows lack id, word_index; .*remove_unused_columns=False"):
            Trainer(args=self.arguments(tmp_path), **parts).train()
