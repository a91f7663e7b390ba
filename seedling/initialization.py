"""Initial weights of linear layers and convolutions, for training from scratch."""

import math
from enum import StrEnum

import torch
from torch import nn


class InitScheme(StrEnum):
    """Ways to draw initial weights. Each preserves the variance of what passes through a layer."""

    XAVIER = "xavier"
    """Uniform with variance 2 / (n_in + n_out): preserves the variance of activations and gradients alike, for units
    that are linear around 0 (Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural
    networks", equation 16)."""
    HE = "he"
    """Normal with variance 2 / n_in: preserves the variance of activations behind rectifiers, which pass half of it (He
    et al. 2015, arXiv:1502.01852, equation 10)."""


@torch.no_grad()
def initialize_layer(layer: nn.Linear | nn.Conv2d, scheme: InitScheme) -> None:
    """Draws the weights of a layer and sets its bias to 0.

    n_in is the number of values that one output sums over, n_out the number of outputs that one input feeds. For a
    depthwise convolution both are the kernel size.
    """
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    if scheme is InitScheme.HE:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    elif depthwise:
        # Normal, as in the committed seedling. torch would count all channels in n_out and make the weights tiny.
        nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
