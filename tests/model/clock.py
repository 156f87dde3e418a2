"""The clock of a test's database: it stands still until it is set.

`now()` and `clock_timestamp()` of this one database are made to read a table. PostgreSQL writes a
function of one SQL expression into whatever calls it when it plans, defaults of columns and
statements of PL/pgSQL too, so all that asks for the time gets this one; `install` has to come
before anything was planned.
"""

from datetime import UTC, datetime
from typing import Any

# A Friday two minutes before an hour, an hour before midnight, two days before a month ends.
START = datetime(2027, 2, 26, 22, 58, tzinfo=UTC)

_INSTALL = """
CREATE TABLE public.test_clock (at timestamptz NOT NULL);
INSERT INTO public.test_clock VALUES ('epoch');
CREATE FUNCTION public.test_now() RETURNS timestamptz LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (SELECT c.at FROM public.test_clock c);
END $$;
CREATE OR REPLACE FUNCTION pg_catalog.now() RETURNS timestamptz
    LANGUAGE sql STABLE AS 'SELECT public.test_now()';
CREATE OR REPLACE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz
    LANGUAGE sql VOLATILE AS 'SELECT public.test_now()';
"""


async def install(owner: Any) -> None:
    """Stops the clock. `owner` is a connection of the superuser."""
    await owner.execute(_INSTALL)


async def set_clock(owner: Any, now: datetime) -> None:
    """It is `now` from the next transaction on."""
    await owner.execute("UPDATE public.test_clock SET at = $1", now)
