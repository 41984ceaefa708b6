"""Gradient modulation in a plain PyTorch loop: classification from a strong and a weak modality.

The acoustic features give the class away, so that plain joint training stops learning from the visual ones as soon as
the acoustic ones explain the labels. Modulation damps the acoustic encoder, and the visual one learns more. The error
of a modality is one minus the probability that its own logits give to the true class, as in OGM-GE (Peng et al., CVPR
2022).

    python examples/plain_pytorch_modulation.py
    python examples/plain_pytorch_modulation.py --optimizer adamw --target update
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling_cpsl.modulation import GradientModulator


NUM_CLASSES = 4
FEATURE_SIZES = {"acoustic": 16, "visual": 16}
SIGNAL = {"acoustic": 6.0, "visual": 2.0}  # distance of the class centres from 0, in deviations of the noise
OPTIMIZERS = {"sgd": (torch.optim.SGD, 0.05), "adamw": (torch.optim.AdamW, 1e-3)}


class LateFusionClassifier(nn.Module):
    """One encoder per modality; the class logits are the sum of the modalities' logits."""

    def __init__(self, hidden_size: int = 64):
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(size, hidden_size), nn.ReLU()) for name, size in FEATURE_SIZES.items()}
        )
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, NUM_CLASSES) for name in FEATURE_SIZES})

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps features (B, d_m) to logits (B, C) of each modality."""
        return {name: self.heads[name](self.encoders[name](value)) for name, value in features.items()}


def make_split(num_samples: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws classes and, around the same class centres in every split, their features."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num_samples,), generator=generator)
    features = {}
    for i, (name, size) in enumerate(FEATURE_SIZES.items()):
        centres = F.normalize(torch.randn(NUM_CLASSES, size, generator=torch.Generator().manual_seed(100 + i)))
        noise = torch.randn(num_samples, size, generator=generator)
        features[name] = SIGNAL[name] * centres[labels] + noise
    return features, labels


def train(modulate: bool, optimizer_name: str, target: str, num_epochs: int, seed: int) -> dict[str, float]:
    """Trains one model and returns its test accuracies and the modulation's mean statistics."""
    torch.manual_seed(seed)
    model = LateFusionClassifier()
    optimizer_class, learning_rate = OPTIMIZERS[optimizer_name]
    optimizer = optimizer_class(model.parameters(), lr=learning_rate)
    features, labels = make_split(2000, seed=1)

    switches = dict.fromkeys(["modulate", "penalize", "enhance"], modulate)
    modulator = GradientModulator(dict(model.encoders), **switches, end_epoch=num_epochs - 1, target=target)
    modulator.attach(optimizer)
    for epoch in range(num_epochs):
        for batch in torch.randperm(len(labels)).split(50):
            logits = model({name: value[batch] for name, value in features.items()})
            F.cross_entropy(sum(logits.values()), labels[batch]).backward()
            errors = {name: 1 - _true_class_probability(value, labels[batch]) for name, value in logits.items()}
            modulator.observe({name: error.sum() for name, error in errors.items()}, count=len(batch))
            modulator.step(epoch)
            optimizer.step()
            optimizer.zero_grad()

    results = {name: value.item() for name, value in modulator.pop_statistics().items()}
    with torch.no_grad():
        features, labels = make_split(2000, seed=2)
        logits = model(features)
        logits["fused"] = sum(logits.values())
    accuracies = {name: (values.argmax(1) == labels).float().mean().item() for name, values in logits.items()}
    return results | {f"accuracy_{name}": accuracy for name, accuracy in accuracies.items()}


def _true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Trains without and with modulation, prints both side by side and returns their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--target", choices=["gradient", "update"], default="gradient")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    results = {
        name: train(modulate, args.optimizer, args.target, args.epochs, args.seed)
        for name, modulate in [("plain", False), ("modulated", True)]
    }
    print(f"{'':24}{'plain':>10}{'modulated':>12}")
    for key in results["plain"]:
        print(f"{key:24}{results['plain'][key]:10.3f}{results['modulated'][key]:12.3f}")
    return results


if __name__ == "__main__":
    main()
