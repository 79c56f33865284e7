"""What every process agrees on before it imports the servers' libraries."""

from __future__ import annotations

import gc

from infra.environment import importing


def test_what_is_imported_is_no_garbage_to_look_for() -> None:
    """Not even later; and what is made after the first imports may be."""
    gc.unfreeze()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() and (frozen := gc.get_freeze_count()) > 0
        made = [[] for _ in range(1000)]
        with importing():
            pass
        assert gc.get_freeze_count() <= frozen and len(made) == 1000
    finally:
        gc.unfreeze()
