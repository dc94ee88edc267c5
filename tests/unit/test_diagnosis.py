"""`phi-serve doctor`: each check over made texts of what it reads, and the whole command on this machine."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.config import AppSettings
from serve_app.diagnosis import limits
from serve_app.diagnosis.checks import Check, Level, fail, has_failed, ok, warn
from serve_app.diagnosis.clock import check_clock, find_build_time_s, read_synchronization
from serve_app.diagnosis.environment import SETTINGS, check_environment
from serve_app.diagnosis.folders import check_disk, check_folder, check_folders, check_keys_file
from serve_app.diagnosis.gpus import Gpu, check_gpu_memory, check_gpus, find_cuda_major, parse_gpus
from serve_app.diagnosis.models import check_models
from serve_app.diagnosis.ports import Listener, check_ports, find_holders, parse_listeners, read_listeners
from serve_app.diagnosis.processor import advise, check_processor, parse_cpuinfo
from serve_app.diagnosis.run import find_pins, read_installed
from serve_app.diagnosis.wheels import find_extra
from serve_app.engine_config import EngineSettings, OnnxSettings, VllmSettings

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "serve_config.yaml").read_text()
GIB = 2**30


def _levels(checks: Any) -> list[Level]:
    return [each.level for each in checks]


def _one(checks: Any, level: Level) -> Check:
    (found,) = [each for each in checks if each.level is level]
    return found


def _cpuinfo(flags: str) -> str:
    first = f"processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu {flags}\n"
    return f"{first}\nprocessor\t: 1\nmodel name\t: Other\nflags\t\t: x\n"


def test_features_of_the_processor() -> None:
    old, plain = parse_cpuinfo(_cpuinfo("sse4_2 avx")), parse_cpuinfo(_cpuinfo("avx2"))
    new = parse_cpuinfo(_cpuinfo("avx2 avx512f avx512_vnni avx512_bf16 amx_bf16"))
    assert plain.model == "Some Processor"
    assert _levels(check_processor(old, {"a": VllmSettings()})) == [Level.FAIL]
    assert _levels(check_processor(old, {"a": OnnxSettings()})) == [Level.WARN]
    assert _levels(check_processor(plain, {"a": OnnxSettings()})) == [Level.OK]
    assert "float32" in advise(plain)
    assert "bfloat16" in advise(new)
    assert "instructions of their own" in advise(new)
    assert "avx512_bf16" in _one(check_processor(new, {}), Level.OK).finding


def test_a_format_that_does_not_suit_the_processor() -> None:
    plain, new = parse_cpuinfo(_cpuinfo("avx2")), parse_cpuinfo(_cpuinfo("avx2 avx512f avx512_bf16"))
    slow = _one(check_processor(plain, {"a": VllmSettings(dtype="bfloat16")}), Level.WARN)
    assert "engines.a.dtype: float32" in slow.fix
    better = _one(check_processor(new, {"a": VllmSettings()}), Level.WARN)
    assert "engines.a.dtype: bfloat16" in better.fix
    assert _levels(check_processor(new, {"a": VllmSettings(dtype="bfloat16")})) == [Level.OK]
    assert Level.FAIL in _levels(check_processor(plain, {"a": VllmSettings(quantization="awq")}))
    assert _levels(check_processor(plain, {"a": VllmSettings(device="cuda", dtype="bfloat16", quantization="awq")}))[0] is Level.OK


def test_an_arm_processor_and_none() -> None:
    arm = parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd asimddp bf16\n")
    assert arm.is_arm
    assert _levels(check_processor(arm, {})) == [Level.OK]
    assert _levels(check_processor(parse_cpuinfo(""), {})) == [Level.WARN]


SMI = "NVIDIA H200, 580.65.06, 143771, 143000\nNVIDIA L4, 535.183.01, 23034, 22500\nNo devices were found\n"


def test_gpus_and_their_drivers() -> None:
    gpus = parse_gpus(SMI)
    assert [each.name for each in gpus] == ["NVIDIA H200", "NVIDIA L4"]
    assert gpus[1] == Gpu(name="NVIDIA L4", driver="535.183.01", total_bytes=23034 << 20, free_bytes=22500 << 20)
    on_gpu: dict[str, EngineSettings] = {"a": VllmSettings(device="cuda")}
    assert _levels(check_gpus(gpus, on_gpu, 13)) == [Level.OK, Level.FAIL]
    assert _levels(check_gpus(gpus, on_gpu, 12)) == [Level.OK, Level.OK]
    assert _levels(check_gpus(None, on_gpu, 13)) == [Level.FAIL] == _levels(check_gpus([], on_gpu, 13))
    assert _levels(check_gpus(None, {"a": VllmSettings()}, None)) == [Level.OK]
    assert _levels(check_gpus(gpus[:1], {"a": VllmSettings()}, None)) == [Level.OK, Level.WARN]


def test_memory_of_gpus() -> None:
    gpus = parse_gpus(SMI)
    assert list(check_gpu_memory(gpus, {"a": 100.0 * GIB, "b": 0.0})) == []
    assert "needs 200.0 GiB" in _one(check_gpu_memory(gpus, {"a": 200.0 * GIB}), Level.FAIL).finding
    assert list(check_gpu_memory(None, {"a": 200.0 * GIB})) == [], "that there is none is said already"


@pytest.mark.parametrize(
    ("installed", "major"),
    [
        ({"torch": "2.13.0+cu130"}, 13),
        ({"torch": "2.13.0", "nvidia-cuda-runtime-cu12": "12.8.90"}, 12),
        ({"torch": "2.13.0", "nvidia-cuda-runtime": "13.0.48"}, 13),
        ({"torch": "2.13.0+cpu"}, None),
        ({}, None),
    ],
)
def test_cudas_version(installed: dict[str, str], major: int | None) -> None:
    assert find_cuda_major(installed) == major


@pytest.mark.parametrize(
    ("soft", "hard", "level"),
    [
        (1024, 1048576, Level.OK),
        (1024, -1, Level.OK),
        (-1, -1, Level.OK),
        (1024, 4096, Level.WARN),
        (256, 512, Level.FAIL),
    ],
)
def test_open_files(soft: int, hard: int, level: Level) -> None:
    assert limits.check_open_files(soft, hard).level is level


def test_threads() -> None:
    assert limits.check_tasks(-1, None).level is Level.OK
    assert limits.check_tasks(100_000, 2048).level is Level.WARN
    assert "container" in limits.check_tasks(100_000, 2048).fix
    assert limits.check_tasks(500, None).level is Level.FAIL
    assert "ulimit -u" in limits.check_tasks(500, None).fix


def test_shared_memory() -> None:
    assert limits.check_shared_memory(64 << 20).level is Level.WARN  # docker's default
    assert "--shm-size" in limits.check_shared_memory(64 << 20).fix
    assert limits.check_shared_memory(None).level is Level.WARN
    assert limits.check_shared_memory(8 << 30).level is Level.OK


def test_memory_against_the_plan() -> None:
    assert _levels(limits.check_memory(8 * GIB, 3 * GIB, 3 * GIB)) == [Level.OK]
    assert _levels(limits.check_memory(8 * GIB, 3 * GIB, 9 * GIB)) == [Level.WARN]
    assert _levels(limits.check_memory(2 * GIB, 3 * GIB, 9 * GIB)) == [Level.FAIL]


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 00000000:2049 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 100 0 0 10 0
   2: 0100007F:1F41 0100007F:1F40 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000 100 0 0 10 0
  bad line
"""


def test_listeners_are_read() -> None:
    assert parse_listeners(TCP) == [Listener(8000, 4711), Listener(8265, 4712)]
    assert parse_listeners("") == []


def test_ports_that_are_taken() -> None:
    found = list(check_ports({8000: "the application"}, parse_listeners(TCP), {4711: "python (pid 7)"}))
    assert [(each.subject, each.level) for each in found] == [
        ("port 8000", Level.FAIL),
        ("port 6379", Level.OK),
        ("port 8265", Level.WARN),
    ]
    assert "python (pid 7) listens there" in found[0].finding
    assert "another user" in found[2].finding


def test_who_listens_here_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listeners = [each for each in read_listeners() if each.port == port]
        found = list(check_ports({port: "the application"}, listeners, find_holders(each.inode for each in listeners)))
    assert f"(pid {os.getpid()})" in found[0].finding


def test_the_environment_is_that_of_the_file() -> None:
    lines = (ROOT / "cluster" / "serve.env").read_text().splitlines()
    written = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {name: value for name, (value, _) in SETTINGS.items()} == written
    assert _levels(check_environment(written)) == [Level.OK]
    assert len(list(check_environment({}))) == len(SETTINGS)
    changed = _one(check_environment(written | {"RAY_SERVE_PROXY_USE_GRPC": "0"}), Level.WARN)
    assert "is '0', not '1'" in changed.finding


def test_the_clock() -> None:
    built = find_build_time_s()
    assert check_clock(built + 10, built, True).level is Level.OK
    assert check_clock(built + 10, built, None).level is Level.OK
    assert check_clock(built + 10, built, False).level is Level.WARN
    assert check_clock(0.0, built, True).level is Level.FAIL
    assert read_synchronization() in (True, False, None)


def test_folders(tmp_path: Path) -> None:
    assert check_folder("state", tmp_path / "new" / "state", private=True).level is Level.OK
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "file").touch()
    assert check_folder("state", tmp_path / "closed", private=True).level is Level.OK
    assert "chmod 700" in check_folder("state", tmp_path / "open", private=True).fix
    assert check_folder("cache", tmp_path / "open", private=False).level is Level.OK
    assert check_folder("state", tmp_path / "file", private=True).level is Level.FAIL
    assert check_folder("state", tmp_path / "file" / "state", private=True).level is Level.FAIL
    assert check_disk(1.0, tmp_path / "none").level is Level.OK
    assert check_disk(1e30, tmp_path / "none").level is Level.WARN


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)
    assert check_folder("state", tmp_path / "sealed", private=True).level is Level.FAIL
    assert check_folder("state", tmp_path / "sealed" / "state", private=True).level is Level.FAIL


def test_the_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert "loopback" in check_keys_file(file).finding
    file.touch(mode=0o600)
    assert check_keys_file(file).level is Level.OK
    file.chmod(0o644)
    assert "chmod 600" in check_keys_file(file).fix


def test_a_redis_store_needs_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AppSettings.model_validate(
        {"engines": {"a": {"kind": "fake"}}, "store": {"kind": "redis", "url_env": "NO_SUCH_URL"}}
    )
    assert next(iter(check_folders(settings))).level is Level.FAIL
    monkeypatch.setenv("NO_SUCH_URL", "redis://:secret@host")
    found = next(iter(check_folders(settings)))
    assert found.level is Level.OK
    assert "secret" not in found.finding


def _settings(path: str, kind: str = "onnx") -> AppSettings:
    return AppSettings.model_validate({"models": {"m": {"path": path}}, "engines": {"a": {"kind": kind}}})


def test_the_hub_is_asked_only_where_a_model_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert _levels(check_models(_settings("embedded"), refuse)) == [Level.OK]
    assert _levels(check_models(_settings("/no/such/folder"), refuse)) == [Level.FAIL]
    assert _levels(check_models(_settings("owner/name"), lambda: True)) == [Level.OK]
    assert "hf download owner/name" in _one(check_models(_settings("owner/name"), lambda: False), Level.FAIL).fix
    cached = tmp_path / "models--owner--name" / "snapshots" / "1"
    cached.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (cached / name).write_text("{}")
    assert "model.safetensors" in _one(check_models(_settings("owner/name"), lambda: False), Level.FAIL).finding
    assert _levels(check_models(_settings("owner/name", "fake"), refuse)) == [Level.OK]
    (cached / "model.safetensors").touch()
    assert _levels(check_models(_settings("owner/name"), refuse)) == [Level.OK]


def test_only_failures_fail() -> None:
    assert not has_failed([ok("a", "b"), warn("a", "b", "c")])
    assert has_failed([ok("a", "b"), fail("a", "b", "c")])


def test_this_environment_has_pins() -> None:
    installed = read_installed()
    pins, source = find_pins(find_extra(installed))
    assert source.startswith("requirements/")
    assert {"ray", "pydantic"} <= pins.keys() & installed.keys()


def test_the_command_on_this_machine(tmp_path: Path) -> None:
    config = yaml.safe_load(SHIPPED)
    config["http_options"]["port"] = _free_port()
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    shown = CliRunner().invoke(app, ["doctor", str(file), "--json"])
    report = json.loads(shown.output)
    subjects = {each["subject"] for each in report["checks"]}
    assert {
        "configuration",
        "Python",
        "processor",
        "GPU",
        "open files",
        "threads",
        "/dev/shm",
        "memory",
        "clock",
        "state",
    } <= subjects
    assert shown.exit_code == (2 if report["summary"]["fail"] else 0)
    assert all(each["fix"] for each in report["checks"] if each["level"] != "ok")
    failed = [each for each in report["checks"] if each["level"] == "fail"]
    assert not [each for each in failed if each["subject"] in ("configuration", "Python", "model phi-4-mini-instruct")], failed


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_fails_for_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "config.yaml").write_text(SHIPPED.replace("port: 8000", f"port: {port}"))
        shown = CliRunner().invoke(app, ["doctor", str(tmp_path / "config.yaml")])
    assert shown.exit_code == 2
    assert f"port {port}: the application: " in shown.output


def test_the_command_without_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["doctor"])
    assert "no configuration was read" in shown.output
    assert CliRunner().invoke(app, ["doctor", "none.yaml"]).exit_code == 2
    (tmp_path / "broken.yaml").write_text("applications: 3")
    shown = CliRunner().invoke(app, ["doctor", "broken.yaml"])
    assert shown.exit_code == 2
    assert "phi-serve validate" in shown.output
