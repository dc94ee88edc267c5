"""Headers about what is left of a caller's limits, under OpenAI's names. Pure."""

from serve_app.record import RequestRecord


def write_limits(record: RequestRecord) -> dict[str, str]:
    """Return `x-ratelimit-*`; empty for callers without limits."""
    headers: dict[str, str] = {}
    for allowance in record.allowances:
        headers |= {
            f"x-ratelimit-limit-{allowance.kind}": str(allowance.limit),
            f"x-ratelimit-remaining-{allowance.kind}": str(allowance.remaining),
            f"x-ratelimit-reset-{allowance.kind}": _show_duration(allowance.resets_in_s),
        }
    return headers


def _show_duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `850ms`, `12.5s`."""
    return f"{round(seconds * 1000)}ms" if seconds < 1 else f"{round(seconds, 3):g}s"
