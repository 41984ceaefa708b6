"""The sample backbone: a folder that the Auto classes load, with a tokenizer that cuts a tenth of the words."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoTokenizer, DebertaV2Model, DebertaV2Tokenizer

from data_builders.formats.sample import sample_splits
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone


FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def words():
    return [word for row in sample_splits(400)["train"] for word in row["words"]]


@pytest.fixture(scope="module")
def backbone(words, tmp_path_factory):
    return make_sample_backbone(words, tmp_path_factory.mktemp("models") / "backbone")


@pytest.fixture(scope="module")
def tokenizer(backbone):
    return AutoTokenizer.from_pretrained(backbone, local_files_only=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestFolder:
    def test_the_seed_and_the_words_decide_every_byte(self, words, backbone, tmp_path):
        torch.manual_seed(5)
        same = make_sample_backbone(reversed(words), tmp_path / "same")
        other = make_sample_backbone(words, tmp_path / "other", seed=1)
        assert sorted(contents(backbone)) == FILES
        assert contents(same) == contents(backbone)
        assert contents(other)["model.safetensors"] != contents(backbone)["model.safetensors"]
        assert contents(other)["tokenizer.json"] != contents(backbone)["tokenizer.json"]

    @pytest.mark.slow
    def test_another_process_makes_the_same_folder(self, words, backbone, tmp_path):
        code = (
            "import sys; from modeling_cpsl.experiments.sample_backbone import make_sample_backbone; "
            "make_sample_backbone(sys.argv[2:], sys.argv[1])"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "7"}
        arguments = [sys.executable, "-c", code, str(tmp_path / "same"), *sorted(set(words))]
        subprocess.run(arguments, env=environment, check=True, capture_output=True)
        assert contents(tmp_path / "same") == contents(backbone)

    def test_the_global_generator_is_left_alone(self, tmp_path):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        make_sample_backbone(["good", "film"], tmp_path / "backbone", hidden_size=16, num_hidden_layers=1)
        assert torch.equal(torch.rand(3), expected)

    def test_the_same_folder_is_reused(self, tmp_path):
        folder = make_sample_backbone(["good", "film"], tmp_path / "new" / "backbone", hidden_size=16)
        times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert make_sample_backbone(["film", "good"], folder, hidden_size=16) == folder
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times
        assert [path.name for path in folder.parent.iterdir()] == ["backbone"]

    @pytest.mark.parametrize("change", [{"seed": 1}, {"hidden_size": 32}, {"num_hidden_layers": 1}])
    def test_another_folder_is_never_overwritten(self, tmp_path, change):
        folder = make_sample_backbone(["good", "film"], tmp_path / "backbone", hidden_size=16)
        before = contents(folder)
        with pytest.raises(FileExistsError, match="is not the sample backbone"):
            make_sample_backbone(["good", "film"], folder, **{"hidden_size": 16, **change})
        assert contents(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["backbone"]

    @pytest.mark.parametrize("size", [16, 32])
    def test_a_process_that_was_faster_is_not_disturbed(self, tmp_path, monkeypatch, size):
        save, folder = DebertaV2Model.save_pretrained, tmp_path / "backbone"

        def be_overtaken(model, unfinished, **kwargs):
            monkeypatch.undo()
            make_sample_backbone(["good", "film"], folder, hidden_size=size)
            save(model, unfinished, **kwargs)

        monkeypatch.setattr(DebertaV2Model, "save_pretrained", be_overtaken)
        with nullcontext() if size == 16 else pytest.raises(FileExistsError, match="is not the sample backbone"):
            make_sample_backbone(["good", "film"], folder, hidden_size=16)
        assert AutoConfig.from_pretrained(folder).hidden_size == size
        assert list(tmp_path.iterdir()) == [folder]

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(DebertaV2Model, "save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_sample_backbone(["good", "film"], tmp_path / "backbone", hidden_size=16)
        assert list(tmp_path.iterdir()) == []


class TestModel:
    def test_it_is_a_small_deberta_v3(self, backbone, tokenizer):
        config = AutoConfig.from_pretrained(backbone, local_files_only=True)
        assert config.model_type == "deberta-v2" and config.vocab_size == len(tokenizer)
        assert (config.hidden_size, config.num_hidden_layers) == (128, 2)
        # What sets v3 apart in microsoft/deberta-v3-base.
        assert config.relative_attention and config.share_att_key and not config.position_biased_input
        assert config.pos_att_type == ["p2c", "c2p"] and config.norm_rel_ebd == "layer_norm"
        assert config.position_buckets > 0 and config.type_vocab_size == 0 and config.num_labels == 1

    def test_saving_and_loading_keeps_every_bit(self, backbone, tmp_path):
        model, info = AutoModel.from_pretrained(backbone, local_files_only=True, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        model.save_pretrained(tmp_path)
        again = AutoModel.from_pretrained(tmp_path).state_dict()
        assert again.keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == torch.float32 and tensor.isfinite().all() and tensor.abs().max() < 2, name
            assert torch.equal(again[name], tensor), name

    def test_word_order_matters(self, backbone, tokenizer):
        model = AutoModel.from_pretrained(backbone).eval()
        with torch.no_grad():
            one, other = (
                model(**tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")).last_hidden_state
                for text in ("the film was good", "good was the film")
            )
        assert one.isfinite().all() and not torch.allclose(one.mean(1), other.mean(1), atol=1e-4)


class TestTokenizer:
    def test_ids_of_the_special_tokens_are_those_of_v3(self, tokenizer):
        assert isinstance(tokenizer, DebertaV2Tokenizer)
        assert tokenizer.convert_tokens_to_ids(["[PAD]", "[CLS]", "[SEP]", "[UNK]"]) == [0, 1, 2, 3]
        assert tokenizer.mask_token_id == len(tokenizer) - 1
        assert tokenizer.model_max_length == 128

    def test_a_tenth_of_the_words_are_two_pieces_and_the_rest_one(self, words, tokenizer):
        vocabulary = sorted(set(words))
        lengths = [len(tokenizer.tokenize(word)) for word in vocabulary]
        assert set(lengths) == {1, 2}
        assert lengths.count(2) == len(vocabulary) // 10 > 5

    def test_words_come_back(self, words, tokenizer):
        for word in set(words):
            assert tokenizer.decode(tokenizer(word, add_special_tokens=False)["input_ids"]).strip() == word

    def test_word_ids_follow_the_pieces(self, words, tokenizer):
        sentence = words[:60]
        encoding = tokenizer(sentence, is_split_into_words=True)
        # Independently of word_ids: each word on its own.
        expected = [index for index, word in enumerate(sentence) for _ in tokenizer.tokenize(word)]
        assert encoding.word_ids() == [None, *expected, None]
        assert len(expected) > len(sentence)

    def test_an_unknown_word_falls_into_characters(self, tokenizer):
        assert tokenizer.tokenize("zyxq") == ["▁", "z", "y", "x", "q"]
        assert tokenizer.unk_token_id not in tokenizer("Xylophone-24!")["input_ids"]

    @settings(max_examples=100, deadline=None)
    @given(text=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1), min_size=1))
    def test_every_word_has_a_piece(self, tokenizer, text):
        word_ids = tokenizer(text, is_split_into_words=True).word_ids()
        assert set(word_ids) == {None, *range(len(text))}

    def test_saving_and_loading_keeps_the_pieces(self, words, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again.get_vocab() == tokenizer.get_vocab()
        sample = [*words[:100], "zyxq"]
        assert again(sample, is_split_into_words=True).data == tokenizer(sample, is_split_into_words=True).data
