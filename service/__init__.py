"""Errorbar: an inference service that puts an honest error bar on every prediction of a network with dropout."""

__version__ = "0.1.0"
