"""Adds to pyproject.toml what it cannot say: the library of loops in C gets the digest of its sources."""

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path(__file__).parent / "service" / "native"


class Build(build_ext):
    def build_extension(self, ext: Extension) -> None:
        digest = runpy.run_path(str(NATIVE / "sources.py"))["digest"](NATIVE)
        self.force = True  # an object that is newer than its source may be of another one
        ext.define_macros.append(("ERRORBAR_SOURCES", f'"{digest}"'))
        super().build_extension(ext)


setup(cmdclass={"build_ext": Build})
