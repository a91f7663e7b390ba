"""The first values of matrices and convolutions, for a model that is taught from scratch."""

import math
from enum import StrEnum

import torch
from torch import nn


class InitScheme(StrEnum):
    """How they are drawn; what is drawn keeps the variance of what goes through it."""

    XAVIER = "xavier"
    """Uniform, of variance 2 / (n_in + n_out): forth and back alike, for units that are linear about 0 (Glorot & Bengio
    2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16)."""
    HE = "he"
    """Normal, of variance 2 / n_in: forth, for rectifiers, which let half of it through (He et al. 2015,
    arXiv:1502.01852, equation 10)."""


@torch.no_grad()
def initialize_layer(layer: nn.Linear | nn.Conv2d, how: InitScheme) -> None:
    """Draws the weights of a layer; its bias is 0. n_in and n_out: how many values one output sums over, and how many
    outputs one input goes into; of a depthwise convolution both are its taps."""
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    if how is InitScheme.HE:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    elif depthwise:
        # Normal, as the committed seedling's were; torch's n_out would be that of all channels, and all but mute it.
        nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
