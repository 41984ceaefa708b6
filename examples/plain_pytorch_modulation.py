"""Balancing in a plain PyTorch loop: audio-visual classification from a strong and a weak modality.

The acoustic features give the class away, so that plain joint training stops learning from the visual ones as soon as
the acoustic ones explain the labels. Modulation damps the acoustic encoder, and the visual one learns more. The error
of a modality is one minus the probability that its own logits give to the true class, as in OGM-GE (Peng et al., CVPR
2022).

    python examples/plain_pytorch_modulation.py
    python examples/plain_pytorch_modulation.py --optimizer adamw --target update
    python examples/plain_pytorch_modulation.py --balance shapley
    python examples/plain_pytorch_modulation.py --balance none --masking opm
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeling_cpsl.modulation import RULES, GradientModulator
from modeling_cpsl.training.sample_policies import POLICIES, StepSamples


NUM_CLASSES = 4
FEATURE_SIZES = {"acoustic": 16, "visual": 16}
SIGNAL = {"acoustic": 6.0, "visual": 2.0}  # distance of the class centres from 0, in deviations of the noise
COALITIONS = [(), ("acoustic",), ("visual",), ("acoustic", "visual")]
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


def train(
    balance: str, masking: str, optimizer_name: str, target: str, num_epochs: int, seed: int
) -> dict[str, float]:
    """Trains one model and returns its test accuracies and the modulation's mean statistics."""
    torch.manual_seed(seed)
    model = LateFusionClassifier()
    optimizer_class, learning_rate = OPTIMIZERS[optimizer_name]
    optimizer = optimizer_class(model.parameters(), lr=learning_rate)
    features, labels = make_split(2000, seed=1)

    rule, policy = RULES[balance](), POLICIES[masking]()
    modulator = GradientModulator(dict(model.encoders), rule=rule, end_epoch=num_epochs - 1, target=target)
    modulator.attach(optimizer)
    step = 0
    for epoch in range(num_epochs):
        for batch in torch.randperm(len(labels)).split(50):
            everything = torch.ones(len(batch), len(FEATURE_SIZES), dtype=torch.bool)
            ids = [str(index) for index in batch.tolist()]
            kept = policy(StepSamples(ids, list(FEATURE_SIZES), everything, step=step, seed=seed, epoch=epoch))
            strengths = dict(zip(FEATURE_SIZES, kept.float().unbind(1), strict=True))

            logits = model({name: value[batch] for name, value in features.items()})
            fused = sum(strengths[name][:, None] * values for name, values in logits.items())
            F.cross_entropy(fused, labels[batch]).backward()
            errors = {name: 1 - _true_class_probability(value, labels[batch]) for name, value in logits.items()}
            modulator.observe_samples(errors, {name: strength > 0 for name, strength in strengths.items()})
            if modulator.wants_coalitions(epoch):
                modulator.observe_coalitions(_coalition_errors(logits, labels[batch]))
            policy.observe(modulator.step(epoch))
            optimizer.step()
            optimizer.zero_grad()
            step += 1

    results = {name: value.item() for name, value in modulator.pop_statistics().items()}
    with torch.no_grad():
        features, labels = make_split(2000, seed=2)
        logits = model(features)
        logits["fused"] = sum(logits.values())
    accuracies = {name: (values.argmax(1) == labels).float().mean().item() for name, values in logits.items()}
    return results | {f"accuracy_{name}": accuracy for name, accuracy in accuracies.items()}


def _true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


@torch.no_grad()
def _coalition_errors(logits: dict[str, Tensor], labels: Tensor) -> dict[tuple[str, ...], Tensor]:
    """The summed errors of what is predicted when only some of the modalities are known."""
    nothing = torch.zeros(len(labels), NUM_CLASSES)
    known = {names: sum((logits[name] for name in names), nothing) for names in COALITIONS}
    return {names: (1 - _true_class_probability(value, labels)).sum() for names, value in known.items()}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Trains without and with balancing, prints both side by side and returns their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--balance", choices=RULES, default="cpsl", help="alternate needs --target update")
    # contributions of single samples take a table of samples, which CPSLTrainer keeps
    parser.add_argument("--masking", choices=[name for name in POLICIES if name != "contribution"], default="none")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--target", choices=["gradient", "update"], default="gradient")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    results = {
        name: train(balance, masking, args.optimizer, args.target, args.epochs, args.seed)
        for name, balance, masking in [("plain", "none", "none"), ("modulated", args.balance, args.masking)]
    }
    print(f"{'':24}{'plain':>10}{'modulated':>12}")
    for key in results["plain"]:
        print(f"{key:24}{results['plain'][key]:10.3f}{results['modulated'][key]:12.3f}")
    return results


if __name__ == "__main__":
    main()
