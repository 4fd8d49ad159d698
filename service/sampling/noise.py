"""Stochastic depth and locked dropout: random numbers that the network draws itself and multiplies by.

Drop path, mean-field dropout over time and the like draw Bernoulli (or uniform) numbers, turn them into 0 or a scale,
and multiply. Such a product becomes a site; the numbers' own operations go.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any, cast

import torch
from torch import Tensor, fx

from service.errors import Uncapturable, UnservableModel
from service.sampling.functional import SOURCES, argument, owner, site_name
from service.sampling.marks import Mark, checked_rate, marked, sites_of

_aten = torch.ops.aten
_BISECTIONS = 48
_RATE_STEP = 2.0**-23  # of a uniform number of float32, with what a sum with it rounds: a rate is known to that
_RATE_SHARE = 1e-3  # of itself: the same for small rates
_TRIED, _TRIALS = 4096, 1024  # numbers that are drawn to see what is made of them, in at most so many draws
_BESIDE = 1e-5  # of a threshold: numbers so close to it are not judged
_PRODUCT, _QUOTIENT = _aten.mul.Tensor, _aten.div.Tensor
_BERNOULLI = {_aten.bernoulli_.float, _aten.bernoulli.p}
_EXPAND_AS = _aten.expand_as.default
_EXPANDS = {_EXPAND_AS, _aten.expand.default}


def collapse(graph: fx.Graph) -> None:
    """Makes every product with noise a site. UnservableModel where noise is used in another way."""
    taken = [mark.name for mark in sites_of(graph).values()]
    _drop_needless_expansions(graph)
    sources = [n for n in graph.nodes if n.target in SOURCES]
    cones = {source: _cone(source) for source in sources}
    for source, cone in cones.items():
        products = [u for n in cone for u in n.users if u not in cone]
        if len(products) != 1 or products[0].target is not _PRODUCT:
            raise _no_dropout(source, f"draws random numbers by {source.target} and does not multiply by them alone")
        if any(n in other for n in products[0].all_input_nodes for other in cones.values() if other is not cone):
            raise _no_dropout(source, "multiplies random numbers by others before they reach a value")
        _make_site(graph, source, cone, products[0], taken)


def _drop_needless_expansions(graph: fx.Graph) -> None:
    """Takes out `expand_as` that leaves a value as it is: it reads the other one, which may be noise, for its shape."""
    for node in [n for n in graph.nodes if n.target is _EXPAND_AS]:
        value = cast(fx.Node, node.args[0])
        if value.meta["val"].shape == node.meta["val"].shape:
            node.replace_all_uses_with(value)
            graph.erase_node(node)


def _cone(source: fx.Node) -> list[fx.Node]:
    """What is made of the noise and of numbers that no input reaches, in order."""
    cone = [source]
    for node in source.graph.nodes:
        read = node.all_input_nodes[:1] if node.target is _EXPAND_AS else node.all_input_nodes  # of others the shape
        if node.op == "call_function" and node is not source and any(n in cone for n in read):
            others = [n for n in read if n not in cone]
            if all(n.op == "get_attr" or not isinstance(n.meta.get("val"), Tensor) for n in others):
                cone.append(node)
    return cone


def _make_site(graph: fx.Graph, source: fx.Node, cone: list[fx.Node], product: fx.Node, taken: list[str]) -> None:
    made = next(n for n in product.all_input_nodes if n in cone)
    value = next(n for n in cast(tuple[fx.Node, ...], product.args) if n not in cone)
    dropped, kept, p = _levels(source, cone, made)
    if kept[1] == 0 or dropped[1] != 0 or not 0 < p < 1:
        raise _no_dropout(source, f"multiplies by {dropped[1]:g} or {kept[1]:g}, not by 0 or a scale")
    shape = _checked_shape(source, cone, made, dropped, kept, p)
    scale = kept[1]
    before, after = _factor(value), _factor(next(iter(product.users))) if len(product.users) == 1 else None
    gone = [product]
    if before is not None and len(value.users) == 1 and isclose(scale * before * (1 - p), 1, rel_tol=1e-6):
        scale, gone = scale * before, [product, value]
        value = cast(fx.Node, value.args[0])
    elif after is not None and isclose(scale * after * (1 - p), 1, rel_tol=1e-6):
        scale, gone = scale * after, [next(iter(product.users)), product]
    full = product.meta["val"].shape
    varies = tuple(n != 1 for n in [1] * (len(full) - len(shape)) + list(shape))
    silent = 1 / scale if source.target in _BERNOULLI and scale == kept[1] else None
    name = site_name(product, taken)
    p = checked_rate(name, p)
    mark = Mark(name, "stochastic_depth", p, scale, varies, (dropped[0], kept[0]), silent, owner(source)[0])
    if not any(v and not isinstance(n, int) for v, n in zip(varies, full, strict=True)):
        raise UnservableModel(f"site {name!r} draws one number for all rows: a row would depend on its neighbours")
    with graph.inserting_before(product):
        site = marked(graph, value, mark)
    gone[0].replace_all_uses_with(site)
    for node in [*gone, *reversed(cone)]:
        graph.erase_node(node)


def _factor(node: fx.Node) -> float | None:
    """What a node multiplies a value by, or None where it does anything else."""
    if node.target not in (_PRODUCT, _QUOTIENT) or not isinstance(node.args[1], int | float):
        return None
    return float(node.args[1]) if node.target is _PRODUCT else 1 / float(node.args[1])


def _levels(
    source: fx.Node, cone: list[fx.Node], made: fx.Node
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """(noise, result) of a dropped and of a kept unit, and the chance to be dropped."""
    if source.target in _BERNOULLI:
        keep = float(argument(source, "p", 0.5))  # torch leaves out what is the default
        return (0.0, _result(cone, made, 0.0)), (1.0, _result(cone, made, 1.0)), round(1 - keep, 12)
    low, high = 0.0, 1 - 2**-24  # of torch's uniform numbers
    first, last = _result(cone, made, low), _result(cone, made, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _result(cone, made, middle) == first else (low, middle)
    below, above = (0.0, first), (1 - 2**-24, last)
    return (below, above, _meant(high)) if first == 0 else (above, below, _meant(1 - high))


def _meant(rate: float) -> float:
    """The shortest number that may have been meant: float32 arithmetic leaves a rate a little beside it."""
    beside = min(_RATE_STEP, _RATE_SHARE * rate)
    shortest = (float(f"{rate:.{digits}g}") for digits in range(1, 17))
    return next((number for number in shortest if abs(number - rate) <= beside), rate)


def _checked_shape(
    source: fx.Node, cone: list[fx.Node], made: fx.Node, dropped: tuple[float, float], kept: tuple[float, float],
    p: float,
) -> torch.Size:
    """Of what is multiplied by, before it is broadcast.

    UnservableModel where numbers as the network draws them give anything but each its own one of the two results: where
    there is a third result between, or where units are thrown together by a mean, a maximum and the like.
    """
    generator = torch.Generator().manual_seed(0)
    shape, seen, result = _shape(source), 0, torch.empty(0)
    uniform = source.target not in _BERNOULLI
    threshold = p if dropped[0] < kept[0] else 1 - p
    for _ in range(_TRIALS):
        drawn = torch.rand(shape, generator=generator)
        clear = (drawn - threshold).abs() > _BESIDE if uniform else torch.ones(shape, dtype=torch.bool)
        low = drawn < threshold
        noise = drawn if uniform else (~low).float()
        is_dropped = low if dropped[0] < kept[0] else ~low
        result = _made_of(noise, cone, made)
        if result.numel() != noise.numel():
            raise _no_dropout(source, "multiplies by numbers that are made of several random ones each")
        expected = torch.where(is_dropped, dropped[1], kept[1])
        if not torch.equal(result.flatten()[clear.flatten()], expected.flatten()[clear.flatten()].to(result.dtype)):
            raise _no_dropout(
                source, f"multiplies by random numbers that are not only {dropped[1]:g} or {kept[1]:g}")
        seen += noise.numel()
        if seen >= _TRIED:
            break
    return result.shape


def _no_dropout(source: fx.Node, what: str) -> UnservableModel:
    """Eagerly, Bernoulli numbers are sampled rightly whatever is made of them; of uniform ones no rate is known."""
    path, kind = owner(source)
    error = Uncapturable if source.target in _BERNOULLI else UnservableModel
    return error(f"{path or 'the network'} ({kind}) {what}: that is no dropout")


def _result(cone: list[fx.Node], made: fx.Node, noise: float) -> float:
    """What the cone makes of noise that is the same everywhere."""
    result = _made_of(torch.full(_shape(cone[0]), noise), cone, made)
    if not bool((result == result.flatten()[0]).all()):
        raise Uncapturable(f"{owner(cone[0])[0]}: its noise differs between units by more than chance")
    return float(result.flatten()[0])


def _made_of(noise: Tensor, cone: list[fx.Node], made: fx.Node) -> Tensor:
    """What the cone makes of noise, before it is broadcast."""
    values: dict[fx.Node, Any] = {cone[0]: noise}

    def known(node: fx.Node) -> Any:
        if node in values:
            return values[node]
        if node.op == "get_attr":
            return getattr(node.graph.owning_module, str(node.target))
        return _size(node.meta["val"])

    for node in cone[1:]:
        if node.target in _EXPANDS:
            values[node] = values[cast(fx.Node, node.args[0])]
            continue
        arguments, named = fx.node.map_arg((node.args, dict(node.kwargs)), known)
        try:
            values[node] = cast(Any, node.target)(*arguments, **cast(Mapping[str, Any], named))
        except Exception:
            raise _no_dropout(cone[0], "makes of random numbers what cannot be followed") from None
    return cast(Tensor, values[made])


def _shape(node: fx.Node) -> list[int]:
    return [_size(n) for n in node.meta["val"].shape]


def _size(value: Any) -> Any:
    return value.node.hint if isinstance(value, torch.SymInt) else value
