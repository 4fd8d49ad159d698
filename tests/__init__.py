"""Where there is no CUDA device Triton's kernels are run by its interpreter, if it is installed; Triton reads that when
it is imported, which torch does at times of its own. The environment of `tests/clients` has no torch at all."""

import os
from importlib.util import find_spec

if find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
