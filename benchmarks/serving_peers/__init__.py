"""Servers that Errorbar is compared with. Each runs in an environment of its own, from the root of this project."""
