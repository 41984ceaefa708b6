"""What the benchmarks train: models of the size of DeBERTa-v3-base, utterances like CMU-MOSI's, and the peers' loop.

The weights are random, which does not change how long anything takes. The peers' loop is written from what MAG-BERT's
and ITHP's repositories do: every utterance padded to 50 tokens, padding attended to, an AdamW that updates one
parameter after the other, no clipping, and evaluation in shuffled batches of 128.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.trainer_callback import PrinterCallback

from modeling_cpsl import CPSLConfig, CPSLDataCollator, CPSLForSentimentRegression, CPSLTrainer, CPSLTrainingArguments
from modeling_cpsl.relative_positions_cpsl import use_reachable_positions


SIZES = {"acoustic": 74, "visual": 47}
PEER_LENGTH, PEER_EVAL_BATCH = 50, 128
BATCH_SIZE = 8
USED_TOKENS = 2_425  # of DeBERTa's vocabulary in CMU-MOSI's training split
PADDING, CLS, SEP = 0, 1, 2


def backbone_config(quick: bool) -> DebertaV2Config:
    """DeBERTa-v3-base, or with `quick` a tiny model of the same kind."""
    size = (
        {"vocab_size": 4_000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        if quick
        else {"vocab_size": 128_100, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    )
    return DebertaV2Config(
        **size,
        intermediate_size=4 * size["hidden_size"],
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        type_vocab_size=0,
        max_position_embeddings=512,
        pad_token_id=PADDING,
    )


def make_cpsl(quick: bool) -> CPSLForSentimentRegression:
    """The full CPSL model."""
    torch.manual_seed(0)
    return CPSLForSentimentRegression(CPSLConfig.from_backbone(backbone_config(quick), modality_sizes=SIZES))


def make_plain(quick: bool) -> DebertaV2ForSequenceClassification:
    """transformers' own DeBERTa with a regression head."""
    torch.manual_seed(0)
    config = backbone_config(quick)
    config.num_labels, config.problem_type = 1, "regression"
    return DebertaV2ForSequenceClassification(config)


def make_utterances(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Encoded utterances whose numbers of subwords are distributed like CMU-MOSI's: mean 16.8, 95th percentile 36."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(np.clip(round(generator.gamma(2.2, 6.7)), 1, PEER_LENGTH - 2))
        tokens = (generator.zipf(1.3, length) - 1) % USED_TOKENS + 3
        features = {name: generator.standard_normal((length, size), np.float32) for name, size in SIZES.items()}
        rows.append(
            {
                "id": f"video{index // 7}[{index % 7}]",
                "input_ids": [CLS, *tokens.tolist(), SEP],
                "word_index": [-1, *range(length), -1],
                "label": float(generator.uniform(-3, 3)),
                **features,
            }
        )
    return rows


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    """The rows as a trainer reads them."""
    from datasets import Array2D, Dataset, Features, List, Value

    features = {"id": Value("string"), "label": Value("float32")}
    features |= {"input_ids": List(Value("int64")), "word_index": List(Value("int64"))}
    features |= {name: Array2D((None, size), "float32") for name, size in SIZES.items()}
    return Dataset.from_list(rows, Features(features)).with_format("numpy")


def make_processor(folder: Path) -> Any:
    """A processor whose tokenizer knows nothing but the special tokens: the rows are encoded already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from modeling_cpsl import CPSLProcessor

    words = {"[PAD]": PADDING, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "[UNK]")),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )
    tokenizer.save_pretrained(folder)
    return CPSLProcessor(tokenizer, SIZES, max_length=PEER_LENGTH)


def make_trainer(folder: Path, model: nn.Module, train: Any, evaluation: Any, **options: Any) -> CPSLTrainer:
    """CPSLTrainer with our defaults, one epoch, nothing written unless it is asked for."""
    processor = make_processor(folder / "tokenizer")
    arguments = CPSLTrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=BATCH_SIZE,
        load_best_model_at_end=False,
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
        **{"num_train_epochs": 1, "save_strategy": "no", **options},
    )
    trainer = CPSLTrainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=CPSLDataCollator(processor),
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def padded(rows: list[dict[str, Any]], length: int = PEER_LENGTH) -> tuple[Tensor, Tensor]:
    """The ids (B, length) of utterances, padded, and their labels (B,)."""
    ids = np.full((len(rows), length), PADDING)
    for index, row in enumerate(rows):
        ids[index, : len(row["input_ids"])] = row["input_ids"][:length]
    return torch.from_numpy(ids), torch.tensor([row["label"] for row in rows])


@contextlib.contextmanager
def slow_path(model: Any) -> Iterator[None]:
    """Has CPSL compute as it did before it left out padding and relative positions out of reach."""
    for layer in model.deberta.encoder.layer:
        layer.attention.self.__class__ = DisentangledSelfAttention
    with mock.patch("modeling_cpsl.modeling_cpsl.packing_pays", return_value=False):
        yield
    use_reachable_positions(model.deberta)


class PeerLoop:
    """An epoch as the peers' scripts make it, with the least model that they have in common: the text encoder."""

    def __init__(self, model: nn.Module, train: list[dict[str, Any]], evaluation: list[dict[str, Any]]):
        self.model, self.train, self.evaluation = model, padded(train), padded(evaluation)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=False)

    def epoch(self) -> Iterator[None]:
        """Trains on all samples once, in shuffled batches of 8, and evaluates; pauses after each batch."""
        self.model.train()
        ids, labels = self.train
        for batch in torch.randperm(len(ids)).split(BATCH_SIZE):
            self.model(input_ids=ids[batch], labels=labels[batch]).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            yield
        yield from self.evaluate()

    @torch.no_grad()
    def evaluate(self, batch_size: int = PEER_EVAL_BATCH) -> Iterator[None]:
        """Predicts the evaluation split in shuffled batches; pauses after each."""
        self.model.eval()
        ids, _ = self.evaluation
        for batch in torch.randperm(len(ids)).split(batch_size):
            self.model(input_ids=ids[batch])
            yield
