"""Networks whose inputs and outputs are not one flat tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tagger(nn.Module):
    """Tokens and a context to a score for every tag of every token, with more in the answer than that."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.context = nn.Embedding(11, 6), nn.Linear(3, 6)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(6, 4)

    def forward(self, tokens: Tensor, context: Tensor) -> dict[str, Tensor]:
        hidden = self.drop(torch.tanh(self.embed(tokens) + self.context(context).unsqueeze(1)))
        return {"hidden": hidden, "logits": self.head(torch.relu(hidden))}


class Segmenter(nn.Module):
    """A picture to a picture: a score for every class of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(torch.relu(self.drop(self.body(picture))))


class Judge(nn.Module):
    """Tokens and their mask to two classes: the mean of the tokens' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(40, 6), nn.Dropout(0.3), nn.Linear(6, 2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        real = mask.unsqueeze(-1).to(torch.float32)
        total = (self.embed(tokens) * real).sum(1) / real.sum(1).clamp(min=1)
        return self.head(self.drop(torch.tanh(total)))


class Witness(nn.Module):
    """An image, tokens and numbers, all in one row, to two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.embed, self.measure = nn.Conv2d(3, 4, 3), nn.Embedding(40, 4), nn.Linear(3, 4)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(4, 2)

    def forward(self, image: Tensor, tokens: Tensor, numbers: Tensor) -> Tensor:
        hidden = self.see(image).mean((2, 3)) + self.embed(tokens).mean(1) + self.measure(numbers)
        return self.head(self.drop(torch.tanh(hidden)))
