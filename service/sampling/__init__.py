"""Monte-Carlo dropout as a library: `sampler = prepare(module, example_inputs, task=…)`, then `predict`, `uncertainty`.
"""

from service.sampling.preparation import prepare
from service.sampling.sampler import Sampler
from service.sampling.sites import Site

__all__ = ["Sampler", "Site", "prepare"]
