"""What `tests/mount/test_mounted_elsewhere.py` plays, in any order and for minutes: `make apps`."""

import logging
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.mount.elsewhere import LOOKS, Rewriter, all_rounds, play, read_while_rewritten
from tests.mount.mounted import env, here, minio, mounted
from tests.mount.test_mounted_elsewhere import elsewhere

__all__ = ["elsewhere", "env", "here", "minio", "mounted"]

log = logging.getLogger(__name__)

FOR_S = 200
AT_ONCE = 3
STALE_SHARE = 0.02  # seen: 0.004


def test_minutes_of_looks_changes_elsewhere_and_uses(here, mounted, elsewhere):
    """Each player has files of its own in one directory; one file is rewritten all the time.

    No bytes are wrong. An open may be stale: the others list the directory, and so ask for the same
    file while it changes twice.
    """
    rounds, until = list(all_rounds()), time.monotonic() + FOR_S

    def player(number: int) -> list[str | None]:
        came = []
        while time.monotonic() < until:
            key = f"{here.name}/{number}-{random.randrange(3)}"
            came.append(play(random.choice(rounds), key, mounted, elsewhere))
        return came

    def reader() -> Counter[str]:
        came: Counter[str] = Counter()
        while time.monotonic() < until:
            came[read_while_rewritten(here / "hot", random.choice(LOOKS[:-1]))] += 1
        return came

    with Rewriter(elsewhere / here.name / "hot") as hot, ThreadPoolExecutor() as pool:
        players = [pool.submit(player, n) for n in range(AT_ONCE)]
        came = pool.submit(reader).result()
        results = [x for p in players for x in p.result()]
    wrong = [x for x in results if x is not None]
    stale = [x for x in wrong if "Stale file handle" in x]
    log.info(
        "%d rounds, %d stale; %d rewrites, read: %s", len(results), len(stale), hot.rewrites, came
    )
    assert [x for x in wrong if x not in stale] == []
    assert len(stale) <= len(results) * STALE_SHARE
    assert set(came) <= {"whole", "stale at open", "stale at read"}
    assert came["whole"] > 0
