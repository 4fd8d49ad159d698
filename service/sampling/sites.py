"""A site: one place of a network where dropout acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from service.errors import UnservableModel, nearest


@dataclass(frozen=True)
class Site:
    """name: path of the dropout module, or of the module that calls `F.dropout`, followed by ".dropout"; a second call
             of the same one is "…#2". Masks are keyed by it.
    kind:    "dropout" (every unit by itself), "feature_dropout" (whole channels), "alpha_dropout",
             "feature_alpha_dropout" (a dropped unit gets SELU's saturation), "attention" (weights of attention),
             "recurrent" (between the layers of an LSTM, GRU or RNN), "stochastic_depth" (the network's own noise).
    p:       the chance that a unit is dropped, in (0, 1).
    active:  whether it samples; False where the manifest's `sites` leaves it out.
    mask_shape: of one row's mask; 1 where the mask is broadcast.
    note:    why it does nothing, if so; else empty.
    scale:   what a unit that stays is multiplied by.
    """

    name: str
    kind: str
    p: float
    active: bool
    mask_shape: tuple[int, ...]
    note: str = ""
    scale: float = 1.0


def selected(names: Sequence[str], patterns: Sequence[str] | None) -> list[bool]:
    """Which sites a manifest's patterns ("head.*") choose; all where there are none. UnservableModel where a pattern
    fits no site: a typo must not switch dropout off."""
    if patterns is None:
        return [True] * len(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnservableModel(
                f"sites: {pattern!r} fits no site{nearest(pattern, names)}; the sites are {', '.join(names) or 'none'}"
            )
    return [samples(name, patterns) for name in names]


def samples(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether a manifest's patterns choose that site."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)
