"""Variables as lines that a shell reads."""

import shlex
from collections.abc import Mapping

SHELLS = ("sh", "fish", "powershell")


def exports(variables: Mapping[str, str], shell: str) -> str:
    """Lines that set and export `variables` in `shell`, one of SHELLS."""
    return "\n".join(_export(name, value, shell) for name, value in variables.items())


def _export(name: str, value: str, shell: str) -> str:
    if shell == "fish":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{quoted}'"
    if shell == "powershell":
        quoted = value.replace("'", "''")
        return f"$env:{name} = '{quoted}'"
    return f"export {name}={shlex.quote(value)}"
