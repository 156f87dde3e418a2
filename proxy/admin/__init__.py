"""The operator's listener: its API, its metrics, its keys. Never on a port that programs reach.

`rights.py` who may use a route, and what it takes · `app.py` the routes joined, refusals and faults
as problem documents · `listener.py` the socket · `keys.py` the keys and their roles · `parts.py`
what is reported on · `routes.py` all routes; a file for each group, with a function `routes`.
"""

from proxy.admin.app import UnmarkedRoute, application
from proxy.admin.hosts import Hosts
from proxy.admin.keys import Key, Keys
from proxy.admin.listener import Listener
from proxy.admin.parts import Parts
from proxy.admin.rights import anyone, asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.routes import all_routes

__all__ = [
    "Hosts",
    "Key",
    "Keys",
    "Listener",
    "Parts",
    "Role",
    "UnmarkedRoute",
    "all_routes",
    "anyone",
    "application",
    "asked",
    "caller",
    "needs",
    "sent",
]
