"""How a node of a captured graph says that it is a site, and what its masks do there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from service.errors import UnservableModel

_ALPHA = 1.7580993408473766  # what SELU saturates at, negated: scale·alpha of Klambauer et al. 2017
SATURATION = -_ALPHA


@dataclass(frozen=True)
class Mark:
    """A site of a graph.

    kind, p:  as of `Site`.
    scale:    what a unit that stays is multiplied by.
    varies:   for each axis of the tensor, whether units along it are dropped apart.
    noise:    what the module's own source of noise must give where a unit is (dropped, kept).
    silent:   what it must give for the site to do nothing; None where no value does.
    owner:    path of the module whose `training` flag turns the site on.
    """

    name: str
    kind: str
    p: float
    scale: float
    varies: tuple[bool, ...]
    noise: tuple[float, float]
    silent: float | None
    owner: str

    @property
    def saturates(self) -> bool:
        """Whether a dropped unit gets the value at which SELU saturates, and not 0."""
        return self.kind in ("alpha_dropout", "feature_alpha_dropout")


def alpha_scale(p: float) -> float:
    """What alpha dropout multiplies by, so that variance stays 1. Source: Klambauer et al. 2017, arXiv 1706.02515."""
    return float(((_ALPHA**2 * p + 1) * (1 - p)) ** -0.5)


def checked_rate(name: str, p: float) -> float:
    """A site's rate. UnservableModel where masks could never keep, or never drop, a unit: they hold 32 bits of it."""
    if round(p * 2**32) >= 2**32:
        raise UnservableModel(f"site {name!r} drops everything (p = {p})")
    if round(p * 2**32) <= 0:
        raise UnservableModel(f"site {name!r} drops nothing (p = {p}); a rate of exactly 0 is no site")
    return float(p)


def drop(value: Tensor) -> Tensor:
    """Stands for a site in a graph; run as it is, the site is off."""
    return value


def marked(graph: fx.Graph, value: fx.Node, mark: Mark) -> fx.Node:
    """A site that acts on a value of the graph, put in after it."""
    node = graph.call_function(drop, (value,))
    node.meta = {**value.meta, "mark": mark}
    return node


def mark_of(node: fx.Node) -> Mark | None:
    """None for nodes that are no site."""
    found = node.meta.get("mark")
    return found if isinstance(found, Mark) and node.target is drop else None


def site_input(node: fx.Node) -> fx.Node:
    """What a site acts on."""
    (value,) = node.args
    assert isinstance(value, fx.Node)
    return value


def sites_of(graph: fx.Graph) -> dict[fx.Node, Mark]:
    """All sites in the order of execution."""
    return {node: mark for node in graph.nodes if (mark := mark_of(node)) is not None}
