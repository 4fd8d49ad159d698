"""A small convolutional network with batch normalisation, channel dropout in its body and unit dropout in its head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from models.architectures.scaling import Numbers, Standardise


class CNN(nn.Module):
    """Small images in their own units to one logit a class.

    Two blocks of 3x3 convolution, batch normalisation, ReLU and `Dropout2d` (whole channels), a 2x2 max-pool after the
    second ReLU, then a head of linear, ReLU, dropout, linear. `shift` and `scale` (one number, or of shape
    (image_channels, 1, 1)) standardise the pixels; they are buffers and come with the weights.
    Forward: (rows, image_channels, side, side) -> (rows, outputs).
    """

    def __init__(
        self,
        image_channels: int = 1,
        side: int = 8,
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
        outputs: int = 10,
        channel_dropout: float = 0.2,
        head_dropout: float = 0.5,
        shift: Numbers = 0.0,
        scale: Numbers = 1.0,
    ) -> None:
        super().__init__()
        first, second = channels
        self.standardise = Standardise((image_channels, 1, 1), shift, scale)
        self.features = nn.Sequential(
            OrderedDict(
                convolution1=nn.Conv2d(image_channels, first, kernel_size=3, padding=1, bias=False),
                normalise1=nn.BatchNorm2d(first),
                relu1=nn.ReLU(),
                dropout1=nn.Dropout2d(channel_dropout),
                convolution2=nn.Conv2d(first, second, kernel_size=3, padding=1, bias=False),
                normalise2=nn.BatchNorm2d(second),
                relu2=nn.ReLU(),
                pool=nn.MaxPool2d(2),
                dropout2=nn.Dropout2d(channel_dropout),
            )
        )
        self.head = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                linear=nn.Linear(second * (side // 2) ** 2, hidden),
                relu=nn.ReLU(),
                dropout=nn.Dropout(head_dropout),
                output=nn.Linear(hidden, outputs),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(self.standardise(images)))
        return logits
