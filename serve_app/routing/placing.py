"""Chooses the replica of a group that takes a request. Pure; Serve's side of it is in `deployments.replica_router`."""

import random
from collections.abc import Collection, Mapping
from hashlib import blake2b

from serve_app.types import Placement


def choose_replica(placement: Placement, queues: Mapping[str, int], slack: int, passed: Collection[str] = ()) -> str:
    """Return one of the replicas in `queues`, which maps each replica to the number of its requests.

    Replicas to avoid, and those already `passed` over, are taken only where there is no other. Of the rest it is the replica being
    probed; else the home of the request's affinity (the replica of the highest hash, so that the end of a replica moves only its
    own conversations), unless the home has more than `slack` requests above the least busy one; else the less busy of two random
    replicas.
    """
    allowed = [replica for replica in queues if replica not in placement.avoid] or list(queues)
    allowed = [replica for replica in allowed if replica not in passed] or allowed
    if placement.prefer in allowed:
        return placement.prefer
    if placement.affinity:
        home = max(allowed, key=lambda replica: blake2b(f"{placement.affinity} {replica}".encode(), digest_size=8).digest())
        if queues[home] <= min(queues[replica] for replica in allowed) + slack:
            return home
    return min(random.sample(allowed, min(2, len(allowed))), key=queues.__getitem__)
