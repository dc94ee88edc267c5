"""Checks the limits of the system: open files, processes and threads, shared memory, free memory. Pure."""

from collections.abc import Iterator

from serve_app.diagnosis.checks import Check, fail, ok, warn

_FILES_LEAST, _FILES_WANTED = 1024, 8192
"""Open files of a process: Ray warns below the first; the second suffices for a thousand streams, each with its connections."""
_TASKS_LEAST, _TASKS_WANTED = 1024, 4096
"""Threads of a user: a start of the shipped configuration has about 700."""
_SHM_LEAST_BYTES, _SHM_WANTED_BYTES = 75 << 20, 256 << 20
"""Ray's least object store, and what the containers here give it: token events do not go through it."""


def check_open_files(soft: int, hard: int) -> Check:
    """Return whether a process may open enough files; -1 is no limit. Ray raises the soft limit to the hard one by itself."""
    subject = "open files"
    most = hard if hard >= 0 else 1 << 62
    shown = f"limit {_show(soft)}, at most {_show(hard)}"
    if most < _FILES_LEAST:
        return fail(subject, shown, f"raise the hard limit (`ulimit -Hn`, LimitNOFILE, --ulimit nofile) to {_FILES_WANTED}")
    if most < _FILES_WANTED:
        return warn(subject, f"{shown}: few for many streams at once", f"raise the hard limit (`ulimit -Hn`) to {_FILES_WANTED}")
    return ok(subject, shown)


def check_tasks(user_limit: int, group_limit: int | None) -> Check:
    """Return whether there may be enough threads: the user's limit (-1: none), and the container's (None: none)."""
    subject = "threads"
    amounts = [each for each in (user_limit, group_limit) if each is not None and each >= 0]
    least = min(amounts, default=-1)
    name = "pids limit of the container" if group_limit is not None and least == group_limit else "`ulimit -u`"
    shown = f"limit {_show(least)}"
    if 0 <= least < _TASKS_LEAST:
        return fail(subject, f"{shown}; Ray and the engines have about 700 threads", f"raise the {name} to {_TASKS_WANTED}")
    if 0 <= least < _TASKS_WANTED:
        return warn(subject, f"{shown}: every further replica has a hundred or more", f"raise the {name} to {_TASKS_WANTED}")
    return ok(subject, shown)


def check_shared_memory(free_bytes: int | None) -> Check:
    """Return whether /dev/shm holds Ray's object store; None: there is no /dev/shm."""
    subject = "/dev/shm"
    fix = "give the container more (--shm-size 512m), or start Ray with --object-store-memory 100000000"
    if free_bytes is None:
        return warn(subject, "it does not exist: Ray keeps its object store in /tmp, which is slower", fix)
    shown = f"{free_bytes / 2**20:,.0f} MiB free"
    if free_bytes < _SHM_LEAST_BYTES:
        return warn(subject, f"{shown}: too little for Ray's object store, which then is in /tmp", fix)
    if free_bytes < _SHM_WANTED_BYTES:
        return warn(subject, f"{shown}: little for Ray's object store", fix)
    return ok(subject, f"{shown} for Ray's object store")


def check_memory(available_bytes: float, least_bytes: float, most_bytes: float) -> Iterator[Check]:
    """Yield whether the available memory holds what the plan needs, at the least and at the most number of replicas."""
    subject, has = "memory", f"{available_bytes / 2**30:.1f} GiB free"
    if least_bytes > available_bytes:
        fix = "`phi-serve plan` shows what takes it and what to change"
        yield fail(subject, f"{has}, and the configuration needs {least_bytes / 2**30:.1f} GiB with its KV caches full", fix)
    elif most_bytes > available_bytes:
        finding = f"{has}: enough at the start, but {most_bytes / 2**30:.1f} GiB are needed once autoscaling has added all replicas"
        yield warn(subject, finding, "lower max_replicas, or add nodes; `phi-serve plan` has the sizes")
    else:
        yield ok(subject, f"{has}; the configuration needs {most_bytes / 2**30:.1f} GiB at most")


def _show(amount: int) -> str:
    return "none" if amount < 0 else f"{amount:,}"
