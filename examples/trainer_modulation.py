"""Balancing with transformers' Trainer and your own model: regression from three modalities.

The trainer has to say which parameters belong to a modality (`create_modulator`), and the model has to add each
sample's error by modality to its outputs (`modality_errors`). Gradient accumulation, several processes, mixed
precision and restarts are taken care of. A policy that leaves modalities out of samples is called for each batch of a
step, and needs to know the samples by name.

    python examples/trainer_modulation.py
    python examples/trainer_modulation.py --balance ogm --masking opm
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
from modeling_cpsl.modulation import RULES, GradientModulator
from modeling_cpsl.training.sample_policies import POLICIES, SamplePolicy, StepSamples


FEATURE_SIZES = {"acoustic": 12, "physiology": 6, "visual": 20}
SIGNAL = {"acoustic": 0.6, "physiology": 0.3, "visual": 1.5}  # share of the label in each feature; the noise has 1


class LateFusionRegressor(nn.Module):
    """An encoder and a head for each modality; the prediction is the mean over the modalities that a sample has."""

    def __init__(self, hidden_size: int = 32):
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(size, hidden_size), nn.Tanh()) for name, size in FEATURE_SIZES.items()}
        )
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, 1) for name in FEATURE_SIZES})

    def forward(
        self,
        acoustic: Tensor,
        physiology: Tensor,
        visual: Tensor,
        labels: Tensor,
        modality_mask: Tensor | None = None,
        sample: Tensor | None = None,
    ) -> dict[str, object]:
        """Maps features (B, d_m) and labels (B,) to the loss, predictions (B,) and errors (B,) by modality.

        Args:
            acoustic: (B, 12).
            physiology: (B, 6).
            visual: (B, 20).
            labels: (B,).
            modality_mask: (B, 3) bool, which samples have which of them. Default: all.
            sample: (B,), numbers of the samples; not used.
        """
        features = {"acoustic": acoustic, "physiology": physiology, "visual": visual}
        unimodal = {name: self.heads[name](self.encoders[name](value))[:, 0] for name, value in features.items()}
        if modality_mask is None:
            modality_mask = torch.ones(len(labels), len(unimodal), dtype=torch.bool, device=labels.device)
        presence = dict(zip(unimodal, modality_mask.unbind(1), strict=True))
        predictions = torch.stack(list(unimodal.values()), dim=1)
        prediction = (predictions * modality_mask).sum(1) / modality_mask.sum(1)
        errors = {name: torch.where(presence[name], (value - labels).abs(), 0.0) for name, value in unimodal.items()}
        loss = F.mse_loss(prediction, labels) + sum(error.square().mean() for error in errors.values())
        return {"loss": loss, "logits": prediction, "modality_errors": errors, "modality_presence": presence}


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
        features = {name: value[index] for name, value in self.features.items()}
        return features | {"labels": self.labels[index], "sample": torch.tensor(index)}


class ModulatedTrainer(GradientModulationMixin, Trainer):
    """A Trainer that modulates the three encoders, leaves modalities out of samples, and logs what it did."""

    balance: str
    policy: SamplePolicy

    def create_modulator(self) -> GradientModulator:
        """One group of parameters per modality; modulation is on in all epochs."""
        model, labels = self.accelerator.unwrap_model(self.model), self.train_dataset.labels
        return GradientModulator(
            dict(model.encoders),
            rule=RULES[self.balance](),
            end_epoch=int(self.args.num_train_epochs),
            likelihood_scale=(labels - labels.median()).abs().mean().item(),
            seed=self.args.seed,
        )

    def get_batch_samples(self, *args: object) -> tuple[list[dict[str, Tensor]], object]:
        """Asks the policy which modalities the samples of the step keep."""
        batches, num_items = super().get_batch_samples(*args)
        for batch in batches:
            samples = StepSamples(
                ids=[str(number) for number in batch["sample"].tolist()],
                modalities=list(FEATURE_SIZES),
                presence=torch.ones(len(batch["labels"]), len(FEATURE_SIZES), dtype=torch.bool),
                step=self.state.global_step,
                seed=self.args.seed,
                epoch=self.state.epoch or 0.0,
            )
            batch["modality_mask"] = self.policy(samples).to(batch["labels"].device)
        return batches, num_items

    def on_modulation(self, statistics: dict[str, Tensor]) -> None:
        """Shows the policy the step's scores."""
        self.policy.observe({name: value.cpu() for name, value in statistics.items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the modulation's statistics to the logged loss."""
        if "loss" in logs:
            logs |= {name: value.item() for name, value in self.modulator.pop_statistics().items()}
        super().log(logs, start_time)


def main(arguments: list[str] | None = None) -> list[dict[str, float]]:
    """Trains the model and returns the logged values of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    # contributions, which two other rules read, take predictions from each coalition of modalities
    rules = [name for name in RULES if name not in ("shapley", "alternate")]
    parser.add_argument("--balance", choices=rules, default="cpsl")
    parser.add_argument("--masking", choices=["none", "uniform", "opm"], default="none")
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
        trainer.balance, trainer.policy = args.balance, POLICIES[args.masking]()
        trainer.train()
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
    return [logs for logs in trainer.state.log_history if "loss" in logs]


if __name__ == "__main__":
    main()
