from tests.e2e.conftest import net

__all__ = ["net"]
