"""Compiles the kernel of `service.sampling.triton_masks` for a device that need not be there. Run by a test, in a
process in which Triton's interpreter is off."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from service.sampling.triton_masks import _multiply

FLAGS = ("V3", "V2", "V1", "V0", "BALANCED", "INDEPENDENT", "DITHERED", "PER_WORD", "U", "R")
CASES = (  # types of value and result, then the flags
    ("fp32", "fp32", 0, 0, 0, 1, True, False, False, 10, 1024, 2),
    ("fp32", "fp32", 0, 0, 0, 1, False, False, False, 2, 128, 16),
    ("bf16", "bf16", 0, 1, 1, 1, True, False, True, 10, 128, 16),
    ("fp32", "fp32", 0, 1, 0, 0, True, True, False, 10, 256, 1),
    ("bf16", "fp32", 1, 1, 1, 1, False, True, True, 2, 4, 1),
)
POINTERS = {"words": "*i64", "places": "*i64", "patterns": "*i32"}
ONES = ("v0", "o0", "d1")  # as a launch specialises them


def signature(name: str, value: str, out: str) -> str:
    if name in ("value", "out"):
        return f"*{value if name == 'value' else out}"
    if name in FLAGS or name in ONES:
        return "constexpr"
    return POINTERS.get(name, "fp32" if "scale" in name else "i64" if name == "limit" else "i32")


def main() -> None:
    names = list(_multiply.arg_names)
    for value, out, *flags in CASES:
        constants = {(names.index(name),): given for name, given in zip(FLAGS, flags, strict=True)}
        constants |= {(names.index(name),): 1 for name in ONES}
        source = ASTSource(_multiply, {name: signature(name, value, out) for name in names}, constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        print(len(made.asm["cubin"]))


if __name__ == "__main__":
    main()
