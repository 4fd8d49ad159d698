"""`errorbar`, with the networks of this folder beside those of the project."""

from pathlib import Path

import models.architectures
from service.cli import main

models.architectures.__path__.append(str(Path(__file__).parent / "architectures"))
main()
