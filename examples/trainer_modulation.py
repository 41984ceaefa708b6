"""Gradient modulation with transformers' Trainer and your own model: regression from three modalities.

The trainer has to say which parameters belong to a modality (`create_modulator`), and the model has to add each
sample's error by modality to its outputs (`modality_errors`). Gradient accumulation, several processes, mixed
precision and restarts are taken care of.

    python examples/trainer_modulation.py
    torchrun --nproc_per_node 2 examples/trainer_modulation.py
"""

import argparse
import tempfile

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from modeling_cpsl import GradientModulationMixin
from modeling_cpsl.modulation import GradientModulator


FEATURE_SIZES = {"acoustic": 12, "physiology": 6, "visual": 20}
SIGNAL = {"acoustic": 0.6, "physiology": 0.3, "visual": 1.5}  # share of the label in each feature; the noise has 1


class LateFusionRegressor(nn.Module):
    """An encoder and a head for each modality; the prediction is the mean of the heads' predictions."""

    def __init__(self, hidden_size: int = 32):
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(size, hidden_size), nn.Tanh()) for name, size in FEATURE_SIZES.items()}
        )
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, 1) for name in FEATURE_SIZES})

    def forward(self, acoustic: Tensor, physiology: Tensor, visual: Tensor, labels: Tensor) -> dict[str, object]:
        """Maps features (B, d_m) and labels (B,) to the loss, predictions (B,) and errors (B,) by modality."""
        features = {"acoustic": acoustic, "physiology": physiology, "visual": visual}
        unimodal = {name: self.heads[name](self.encoders[name](value))[:, 0] for name, value in features.items()}
        prediction = torch.stack(list(unimodal.values())).mean(0)
        loss = F.mse_loss(prediction, labels) + sum(F.mse_loss(value, labels) for value in unimodal.values())
        errors = {name: (value - labels).abs() for name, value in unimodal.items()}
        return {"loss": loss, "logits": prediction, "modality_errors": errors}


class SyntheticEmotions(Dataset):
    """Labels in [-3, 3] and, for each modality, noisy features that show the label more or less clearly."""

    def __init__(self, num_samples: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.rand(num_samples, generator=generator) * 6 - 3
        self.features = {
            name: SIGNAL[name] * self.labels[:, None] + torch.randn(num_samples, size, generator=generator)
            for name, size in FEATURE_SIZES.items()
        }

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.features.items()} | {"labels": self.labels[index]}


class ModulatedTrainer(GradientModulationMixin, Trainer):
    """A Trainer that modulates the three encoders and logs what it did."""

    def create_modulator(self) -> GradientModulator:
        """One group of parameters per modality; modulation is on in all epochs."""
        model = self.accelerator.unwrap_model(self.model)
        return GradientModulator(dict(model.encoders), end_epoch=int(self.args.num_train_epochs), seed=self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the modulation's statistics to the logged loss."""
        if "loss" in logs:
            logs |= {name: value.item() for name, value in self.modulator.pop_statistics().items()}
        super().log(logs, start_time)


def main(arguments: list[str] | None = None) -> list[dict[str, float]]:
    """Trains the model and returns the logged values of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        training_args = TrainingArguments(
            folder,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            optim="sgd",
            logging_strategy="epoch",
            save_strategy="no",
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = ModulatedTrainer(LateFusionRegressor(), training_args, train_dataset=SyntheticEmotions(512, seed=1))
        trainer.train()
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
    return [logs for logs in trainer.state.log_history if "loss" in logs]


if __name__ == "__main__":
    main()
