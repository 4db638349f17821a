"""What one training step minimises: BiRefNet's losses, and what a configuration adds to them."""

import torch
from torch import Tensor

from modeling.birefnet.decoder import image_laplacian
from modeling.birefnet.network import TrainingOutputs
from training.config import TrainingConfig
from training.losses import classification, gradient_label, gradient_supervision, multi_stage
from training.losses.inverse_form import InverseForm
from training.losses.refine_mask import SIDE_OUTPUTS, staged


def class_loss(outputs: TrainingOutputs, labels: Tensor | None, config: TrainingConfig) -> Tensor | float:
    """The auxiliary classification's part of the objective; 0 where no class is learned.

    Args:
        outputs: Of the network in training mode.
        labels: (B,) int64, -1 where an image has none; None where no class is learned.
        config: Its weight.
    """
    if labels is None or outputs.class_logits is None:
        return 0.0
    return config.loss_scale * config.loss.classification * classification(outputs.class_logits.float(), labels)


def step_loss(
    outputs: TrainingOutputs,
    image: Tensor,
    target: Tensor,
    config: TrainingConfig,
    share: float,
    inverse_form: InverseForm | None = None,
) -> Tensor:
    """BiRefNet's whole objective: the hybrid loss on four predictions, gradient supervision, and the options.

    Args:
        outputs: Of the network in training mode.
        image: (B, 3, H, W) normalised, what it has seen.
        target: (B, 1, H, W) soft alphas.
        config: Weights and options.
        share: The spent share of the budget, which fine-tuning and InverseForm follow.
        inverse_form: Its frozen network, where the configuration gives it a weight.
    """
    weights = config.fine_tuning.weights(config.loss, share)
    terms = multi_stage((outputs.side_logits, outputs.logits), target, weights, config.side_stride, True)
    if weights.gradient:
        labels = outputs.gradient_labels
        if config.gradient_dilation is not None:
            edges = image_laplacian(image.float())
            labels = tuple(gradient_label(edges, side, config.gradient_dilation) for side in outputs.side_logits)
        terms["gradient"] = weights.gradient * gradient_supervision(outputs.gradient_logits, labels)
    if weights.refine_mask:
        terms["refine mask"] = weights.refine_mask * staged(outputs.side_logits, target, SIDE_OUTPUTS)
    boundary = config.inverse_form.weight_at(share)
    if boundary and inverse_form is not None:
        alpha = torch.sigmoid(outputs.logits.float())
        terms["inverse form"] = boundary * inverse_form(alpha, target.float())
    return torch.stack(list(terms.values())).sum() * config.loss_scale
