"""What an operator sees while the application starts."""

import subprocess
import time

from tests.live import GROUPS, LiveApp


def test_the_ingress_answers_long_before_the_engines_are_ready(app: LiveApp) -> None:
    first_s, status, phases = app.seen[0]
    print(f"\ningress after {first_s:.1f} s; first streamed token: {app.first_answer_s}; all ready after {app.seen[-1][0]:.1f} s")
    assert status == 503
    assert phases["vllm"] != "ready"
    assert set(phases) == {*GROUPS, "slow"}


def test_phases_go_forward_to_ready_and_only_then_is_health_200(app: LiveApp) -> None:
    order = ["starting", "loading", "warming", "ready"]
    for group in GROUPS:
        ranks = [order.index(phases[group]) for _, _, phases in app.seen]
        assert ranks == sorted(ranks)
    assert "loading" in {phases["vllm"] for _, _, phases in app.seen}
    assert all((status == 200) == (set(phases.values()) == {"ready"}) for _, status, phases in app.seen)


def test_the_ready_message_has_three_curls_that_work(app: LiveApp) -> None:
    deadline = time.monotonic() + 20
    commands: list[str] = []
    while len(commands) < 3 and time.monotonic() < deadline:
        lines = app.log.read_text(errors="replace").splitlines()
        commands = [line[line.index("curl ") :] for line in lines if "curl " in line and "-d '" in line]
        time.sleep(0.5)
    assert len(commands) == 3
    for command in commands:
        answer = subprocess.run(
            ["bash", "-c", f"{command} -sS --fail-with-body"], capture_output=True, text=True, timeout=60, check=True
        )
        assert '"content"' in answer.stdout or '"generated_text"' in answer.stdout
