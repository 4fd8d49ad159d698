"""`make contract`: writes what others build on into this folder. Look at the difference before it is committed."""

from tests.contract.told import FOLDER, TOLD

for name, told in TOLD.items():
    (FOLDER / name).write_text(told(), encoding="utf-8")
