"""Keeping the database well: what it is made of, its copies, its old months.

`catalog.py` and `catalog.sql` what a database is made of · `manifest.py` what it should be ·
`verify.py` the difference · `backup.py`, `restore.py` a copy, and back, equal row for row
(`rows.py`), by PostgreSQL's own programs (`tools.py`) · `tasks.py` partitions made and dropped ·
`keeper.py` all of it by the running proxy · `report.py` how the database is.
"""

from proxy.upkeep.errors import UpkeepError
from proxy.upkeep.keeper import Keeper

__all__ = ["Keeper", "UpkeepError"]
