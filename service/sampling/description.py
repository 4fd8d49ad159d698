"""A plan that people can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import fx, nn

from service.sampling.kernels import Timing


@dataclass(frozen=True)
class PlanDescription:
    """prefix, suffix: what runs once a row, and what runs for every sample. kernels: (name, most rows that run
    together, samples of one row that run together). timings: by which the kernel is chosen; empty where there is one
    only. notes: kernels that were left out and why; of a device, what is replayed and what is not."""

    prefix: nn.Module
    suffix: nn.Module
    deterministic_flop_share: float | None
    eager_reason: str
    kernels: Sequence[tuple[str, int, int]]
    timings: Sequence[Timing]
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "prefix": steps(self.prefix), "suffix": steps(self.suffix), "eager_reason": self.eager_reason or None,
            "deterministic_flop_share": self.deterministic_flop_share,
            "kernels": [{"name": n, "rows": rows, "samples_of_a_row": block} for n, rows, block in self.kernels],
            "timings": [
                {"rows": t.rows, "serves": t.fastest.name, "microseconds_a_sample": {
                    kernel.name: round(s * 1e6, 1) for kernel, s in zip(t.kernels, t.seconds, strict=True)}}
                for t in self.timings
            ],
            "notes": list(self.notes),
        }


def steps(module: nn.Module) -> list[str]:
    """The operations of a captured graph, a line each; none of what is run as it is."""
    if not isinstance(module, fx.GraphModule):
        return []
    return [
        f"{node.name} = {_name(node)}({', '.join(_shown(a) for a in node.args)})"
        for node in module.graph.nodes if node.op in ("call_function", "call_module")
    ]


def _name(node: fx.Node) -> str:
    target = cast(Any, node.target)
    return str(getattr(target, "__name__", target)).removeprefix("aten.")


def _shown(argument: Any) -> str:
    if isinstance(argument, fx.Node):
        return argument.name if argument.op != "get_attr" else str(argument.target).removeprefix("constant_")
    if isinstance(argument, list | tuple):
        return f"[{', '.join(_shown(a) for a in argument)}]"
    return str(argument)
