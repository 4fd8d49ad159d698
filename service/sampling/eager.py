"""Networks that cannot be captured: packed sequences, `if` on data, shapes that depend on values.

They run as they are, one row and one sample at a time, with the same masks a captured network would get. Slow, and
right. Sites are what asks for noise while one row runs; a row alone needs no row axis to be told apart.

A row in service may take a way that no example took, and meet other sites. They are named, chosen by the manifest's
patterns and checked as those of the examples are, and every row is held against its own prediction.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from service.errors import ModelFailed, UnservableModel
from service.sampling.agreement import agree, scale_of
from service.sampling.arming import (
    Inputs,
    call,
    no_foreign_randomness,
    plain_attention,
    rest,
    with_running_statistics,
)
from service.sampling.bank import Draw
from service.sampling.capture import output_of
from service.sampling.layouts import Layout
from service.sampling.marks import alpha_scale, checked_rate
from service.sampling.masks import MAX_OUTER, dropped
from service.sampling.plan import Plan
from service.sampling.reference import traceable, with_noise
from service.sampling.sites import Site, samples, selected
from service.sampling.split import Split
from service.statistics import BLOCK

_NOT_ONLY_DROPOUT = "with dropout on the network computes something else than in eval mode, not only dropout"
_ALPHA_KINDS = {"AlphaDropout": "alpha_dropout", "FeatureAlphaDropout": "feature_alpha_dropout"}
_KINDS = {
    "Dropout1d": "feature_dropout", "Dropout2d": "feature_dropout", "Dropout3d": "feature_dropout",
    "MultiheadAttention": "attention", "LSTM": "recurrent", "GRU": "recurrent", "RNN": "recurrent", **_ALPHA_KINDS,
}


class EagerNetwork:
    """A module that is run as it is, and knows at each moment which of its parts is running."""

    def __init__(
        self, module: nn.Module, positional: bool, names: Sequence[str], patterns: Sequence[str] | None = None
    ) -> None:
        """names: of the inputs. patterns: of the sites that sample; None for all. scale: of the outputs, once known."""
        self._module, self._positional, self._names, self._patterns = module, positional, list(names), patterns
        self.scale: Tensor | float = 0.0
        self._running: list[str] = []
        self._classes = {path: type(part).__name__ for path, part in module.named_modules()}
        for path, part in module.named_modules():
            part.register_forward_pre_hook(lambda m, _a, path=path: self._entered(path, m))
            part.register_forward_hook(lambda _m, _a, _o: self._left(), always_call=True)

    def _entered(self, path: str, part: nn.Module) -> None:
        self._running.append(path)
        if isinstance(part, _DropoutNd) and part.training and part.p >= 1:  # it draws no numbers that could be seen
            checked_rate(path, part.p)

    def _left(self) -> None:
        self._running.pop()

    @property
    def saturating(self) -> list[str]:
        """Paths of modules that must stay in eval mode where they do not sample: no noise silences them."""
        return [path for path, kind in self._classes.items() if kind in _ALPHA_KINDS]

    def samples(self, site: str) -> bool:
        """Whether a site is one of those that sample."""
        return samples(site, self._patterns)

    def predict(self, rows: Sequence[Tensor]) -> Tensor:
        """The module in eval mode, row by row: an `if` on data may look at the first row only."""
        count = rows[0].shape[0]
        with torch.no_grad(), plain_attention():
            return torch.cat([
                output_of(call(self._module.eval(), self._named([v[i : i + 1] for v in rows]), self._positional))
                for i in range(count)
            ])

    def sample(self, row: Sequence[Tensor], noise: Any, off: Sequence[str]) -> Tensor:
        """One row, armed. noise: (site, shape, keep) to what the source gives."""
        seen: Counter[str] = Counter()

        def asked(shape: Sequence[int], keep: float | None) -> Tensor:
            path = self._running[-1] if self._running else ""
            name = path if "Drop" in self._classes[path] and path else f"{path}.dropout".lstrip(".")
            seen[name] += 1
            found: Tensor = noise(name if seen[name] == 1 else f"{name}#{seen[name]}", tuple(shape), keep)
            return found

        return output_of(with_noise(self._module, self._named(row), self._positional, asked, off))

    def kind(self, site: str) -> tuple[str, str]:
        """A site's kind and the path of the module that owns it."""
        path = site.split("#")[0]
        path = path if path in self._classes else path.removesuffix("dropout").rstrip(".")
        return _KINDS.get(self._classes[path], "dropout"), path

    def _named(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._names, rows, strict=True))


def settle_resting(module: nn.Module, rows: Inputs, positional: bool) -> None:
    """Lets every part with running statistics rest in eval mode, but those that draw random numbers themselves."""
    candidates = with_running_statistics(module)
    drawing: set[str] = set()
    if candidates:
        trial = copy.deepcopy(module)
        rest(trial, ())
        network = EagerNetwork(trial, positional, list(rows))

        def noted(site: str, _shape: tuple[int, ...], keep: float | None) -> Tensor:
            drawing.add(network.kind(site)[1])
            return torch.tensor(0.5 if keep is None else keep)

        with torch.random.fork_rng(devices=[]):
            network.sample(list(rows.values()), noted, ())
    rest(module, [path for path in candidates if path not in drawing])


def eager_plan(
    module: nn.Module, rows: Inputs, positional: bool, patterns: Sequence[str] | None, reason: str
) -> Plan:
    """A plan without a graph. reason: why there is none. UnservableModel where it would not be sampled rightly."""
    network = EagerNetwork(module, positional, list(rows), patterns)
    with no_foreign_randomness(), torch.random.fork_rng(devices=[]), traceable():
        network.scale = _scale_where_only_dropout(network, rows)
        sites = _find_sites(network, rows, patterns)
    output = network.predict(list(rows.values()))
    widths = [value[0].numel() for value in (*rows.values(), output)]
    split = Split(
        prefix=_Function(lambda *inputs: inputs), prefix_layouts=[Layout(0)] * len(rows), prefix_width=sum(widths[:-1]),
        suffix=nn.Module(), suffix_width=widths[-1], masks=[s.name for s in sites if s.active],
    )
    return Plan(
        predict=_Function(lambda *inputs: (network.predict(inputs),)), split=split, chain=None, ending=None,
        sites=sites, marks=[], layouts=[], output_shape=tuple(output.shape[1:]), network=network, reason=reason,
    )


class _Function(nn.Module):
    """A function where a module is expected."""

    def __init__(self, function: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> Sequence[Tensor]:
        return self._function(*inputs)


def _find_sites(network: EagerNetwork, rows: Inputs, patterns: Sequence[str] | None) -> list[Site]:
    """The sites that some of the rows meet, with the widest mask seen. UnservableModel where one drops everything."""
    found: dict[str, Site] = {}

    def noted(site: str, shape: tuple[int, ...], chance: float | None) -> Tensor:
        keep = _known(site, chance)
        kind, _ = network.kind(site)
        p = _rate(site, keep)
        scale = alpha_scale(p) if "alpha" in kind else 1 / (1 - p)
        own = _own_shape(shape)
        before = found[site].mask_shape if site in found else own
        widest = tuple(map(max, own, before)) if len(own) == len(before) else before
        found[site] = Site(site, kind, p, True, widest, scale=scale)
        return torch.tensor(keep)

    for row in _each(rows):
        network.sample(row, noted, ())
    chosen = selected(list(found), patterns)
    return [
        site if on else replace(site, active=False, note="left out by the manifest's sites")
        for site, on in zip(found.values(), chosen, strict=True)
    ]


def _scale_where_only_dropout(network: EagerNetwork, rows: Inputs) -> Tensor | float:
    """The outputs' scale on some rows. UnservableModel where with every site silent an armed row is not the prediction:
    what the probe asks of every network, where there is no graph to compare."""
    predicted = []
    for row in _each(rows):
        one, other = network.predict(row), network.predict(row)
        if not torch.equal(one, other):
            raise UnservableModel("two passes in eval mode differ: the network is random even with dropout off")
        predicted.append(one)
    silent, expected = torch.cat([_silent(network, row) for row in _each(rows)]), torch.cat(predicted)
    scale = scale_of(expected)
    if not agree(silent, expected, scale):
        raise UnservableModel(_NOT_ONLY_DROPOUT)
    return scale


def _silent(network: EagerNetwork, row: Sequence[Tensor]) -> Tensor:
    """A row with dropout on and every site doing nothing."""
    return network.sample(row, lambda site, _shape, keep: torch.tensor(_known(site, keep)), network.saturating)


class Eager:
    """The kernel of such a network: rows by samples, one at a time."""

    name = "eager"
    per_row_masks, rows_apart, normalised = True, False, False
    rows = 1 << 30
    bytes_per_sample = 0
    working_set_bytes = 1
    held = ()

    def __init__(self, network: EagerNetwork, split: Split) -> None:
        self._network, self.split = network, split
        self._off = [path for path in network.saturating if not network.samples(path)]

    def drawn(self, draw: Draw, places: np.ndarray | None) -> list[Any]:
        return [draw, places]

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Any]) -> Tensor:
        draw, places = drawn
        outputs = []
        for i in range(rows):
            masks = _RowMasks(self._samples, draw, None if places is None else places[i : i + 1])
            row = [value[i : i + 1] for value in values]
            if not draw.first:
                self._hold(row)
            outputs.append(torch.stack([self._network.sample(row, masks.of(t), self._off) for t in range(samples)]))
        return torch.cat(outputs, 1)

    def _samples(self, site: str) -> bool:
        """Whether it samples. UnservableModel where it must rest and another site of its module samples."""
        on = self._network.samples(site)
        if not on and self._network.kind(site)[1] in self._network.saturating:
            raise UnservableModel(f"site {site!r} cannot be left out while another site of the same module samples")
        return on

    def _hold(self, row: Sequence[Tensor]) -> None:
        """ModelFailed where with every site silent the armed row is not its prediction: what no example has shown."""
        silent, expected = _silent(self._network, row), self._network.predict(row)
        scale = expected.abs().clamp_min(self._network.scale)
        if bool(expected.isfinite().all()) and not agree(silent, expected, scale):
            raise ModelFailed(f"{_NOT_ONLY_DROPOUT}, for one of these rows; the examples that it was prepared with did "
                              "not show it")


class _RowMasks:
    """Noise of one row, made for all samples of a draw when a site first asks."""

    def __init__(self, active: Callable[[str], bool], draw: Draw, place: np.ndarray | None) -> None:
        """active: whether a site samples, by its name."""
        self._active, self._draw, self._place = active, draw, place
        self._kept: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def of(self, sample: int) -> Any:
        def noise(site: str, shape: tuple[int, ...], chance: float | None) -> Tensor:
            keep = _known(site, chance)
            if not self._active(site):
                return torch.tensor(keep)
            key = site, shape
            if key not in self._kept:
                self._kept[key] = self._made(site, shape, keep)
            return self._kept[key][sample]

        return noise

    def _made(self, site: str, shape: tuple[int, ...], keep: float) -> Tensor:
        own, draw = _own_shape(shape), self._draw
        if len(own) > MAX_OUTER + 1:
            raise UnservableModel(f"site {site!r} acts on a tensor of shape {shape}, which has too many axes")
        p = _rate(site, keep)
        bits = dropped(draw.design, draw.seed, site, p, own, draw.first, draw.samples, self._place)
        return torch.from_numpy(~bits).to(torch.float32).reshape(draw.samples, *shape)


def moves_output(network: EagerNetwork, sites: Sequence[Site], rows: Inputs, name: str, seed: int) -> bool:
    """Whether any of ten samples in which that site alone is on differs from the one in which none is."""
    off = [network.kind(site.name)[1] for site in sites if "alpha" in site.kind and site.name != name]
    for row in _each(rows):
        masks = _RowMasks(lambda site: site == name, Draw("balanced", seed, 0, BLOCK, BLOCK), None)
        plain = network.predict(row)
        if any(not torch.allclose(network.sample(row, masks.of(t), off), plain, rtol=0, atol=0) for t in range(BLOCK)):
            return True
    return False


def _known(site: str, keep: float | None) -> float:
    """A site's chance to keep a unit. UnservableModel where it draws uniform numbers: without a graph nothing tells
    what the network makes of them."""
    if keep is None:
        raise UnservableModel(f"site {site!r} draws uniform random numbers in a network that cannot be captured: its "
                              "rate is not known, and it would be sampled with another one")
    return keep


def _rate(site: str, keep: float) -> float:
    return checked_rate(site, round(1 - keep, 12))


def _own_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A row's own axes: without the first one of length 1, which is the rows'."""
    axes = list(shape)
    if 1 in axes:
        axes.remove(1)
    return tuple(axes)


def _each(rows: Inputs) -> list[list[Tensor]]:
    count = len(next(iter(rows.values())))
    return [[value[i : i + 1] for value in rows.values()] for i in range(count)]
