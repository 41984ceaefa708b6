"""Late fusion: a linear combination of what each modality alone says, the control of every other fusion."""

import torch
from torch import nn
from transformers import PreTrainedConfig

from .encoding_cpsl import AdaptiveModalityEncoder, UnimodalHead
from .losses_cpsl import LOSSES, TASK_TERM, unimodal_loss
from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import token_mean
from .regressor_cpsl import MultimodalRegressor


class LateRegressor(MultimodalRegressor):
    """f = sum_m w_m h_m + b over the pooled modalities that a sample has.

    h_t is the pooled text encoder, each other h_m the pooled output of CPSL's modality encoder without its variance
    and noise. Since f is linear in them, w_m h_m is what modality m adds to a prediction.

    Args:
        config: The model's configuration.
    """

    title = "late fusion (this package)"
    reference = ""
    config_fields = frozenset(
        {
            *("modality_hidden_size", "latent_size", "encoder_dropout", "classifier_dropout"),
            *("pooling", "feature_normalization", "unimodal_weight"),
        }
    )
    loss_terms = {"task": TASK_TERM, "unimodal": LOSSES["unimodal"]}
    needs_text = False
    heads = frozenset({"fusion", "unimodal_heads"})
    has_unimodal_heads = True
    weakens_modalities = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.loss_weights = {"unimodal": config.unimodal_weight}
        hidden_size, latent_size, dropout = config.modality_hidden_size, config.latent_size, config.encoder_dropout
        self.encoders = nn.ModuleDict(
            {
                name: AdaptiveModalityEncoder(size, hidden_size, latent_size, dropout, ame=False)
                for name, size in config.modality_sizes.items()
            }
        )
        sizes = {"text": config.hidden_size} if config.use_text else {}
        sizes |= dict.fromkeys(config.modality_sizes, latent_size)
        self.unimodal_heads = nn.ModuleDict(
            {
                name: UnimodalHead(size, config.classifier_dropout, self.task.num_outputs)
                for name, size in sizes.items()
            }
        )
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.fusion = nn.Linear(sum(sizes.values()), self.task.num_outputs)

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's encoder."""
        return list(self.encoders[name].parameters())

    def regress(self, inputs: RegressorInputs) -> Regression:
        """Predicts the label from all modalities together and from each alone."""
        pooled = {"text": self._pool(inputs.hidden, inputs.mask)} if self.config.use_text else {}
        for name, encoder in self.encoders.items():
            values, present = self._normalize(name, inputs)
            latents, _ = encoder(values.to(self.fusion.weight.dtype))
            pooled[name] = token_mean(latents, present)
        fused = [inputs.weakened(name, values) for name, values in pooled.items()]
        logits = self.task.logits(self.fusion(self.dropout(torch.cat(fused, dim=-1))))
        unimodal = {name: self.task.logits(head(pooled[name])) for name, head in self.unimodal_heads.items()}
        regression = Regression(logits, unimodal_logits=unimodal)
        if inputs.labels is not None:
            regression.losses = {
                "task": self._task_loss(logits, inputs),
                "unimodal": unimodal_loss(unimodal, inputs.labels, inputs.presence, inputs.weights, self.task),
            }
        return regression


__all__ = ["LateRegressor"]
