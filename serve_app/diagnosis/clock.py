"""Checks the clock, by which keys end, quotas count and responses are kept."""

import ctypes
import time
from pathlib import Path

import serve_app
from serve_app.diagnosis.checks import Check, fail, ok, warn

_SUBJECT = "clock"
_TOLERANCE_S = 86400.0
"""Time zones of archives that files come from are sometimes lost."""
_TIMEX_BYTES = 512
"""More than the kernel's struct timex has on any machine."""
_UNSYNCHRONIZED = 5


def check_clock(now_s: float, built_s: float, is_synchronized: bool | None) -> Check:
    """Return whether the clock is later than the package's files and kept right; times are seconds since 1970."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < built_s - _TOLERANCE_S:
        built = time.strftime("%Y-%m-%d", time.gmtime(built_s))
        fix = "set it (`timedatectl set-ntp true`): certificates, keys that end and quotas depend on it"
        return fail(_SUBJECT, f"{shown}, which is before the package's files were written ({built})", fix)
    if is_synchronized is False:
        fix = "run a time service (systemd-timesyncd, chrony) on the machine: several nodes need one time for keys and quotas"
        return warn(_SUBJECT, f"{shown}; the kernel says that no time service corrects it", fix)
    kept = "; a time service corrects it" if is_synchronized else "; unknown whether a time service corrects it"
    return ok(_SUBJECT, shown + kept)


def find_build_time_s() -> float:
    """Return when the newest file of the package was written, in seconds since 1970."""
    return max(file.stat().st_mtime for file in Path(serve_app.__file__).parent.rglob("*.py"))


def read_synchronization() -> bool | None:
    """Return whether the kernel's clock is corrected by a time service; None where the kernel cannot be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: it only reads
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _UNSYNCHRONIZED)
