"""The image's lock is the development lock without the development tools."""

from tests.cluster.conftest import ROOT


def _pins(name: str) -> set[str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return {line.split(" ")[0] for line in lines if "==" in line and not line.lstrip().startswith("#")}


def test_the_image_has_what_is_tested_and_no_tools() -> None:
    image, tested = _pins("image-cpu.txt"), _pins("cpu.txt")
    assert len(image) > 100
    assert image <= tested
    assert not {pin.split("==")[0] for pin in image} & {"pytest", "ruff", "mypy", "hypothesis", "kubernetes-validate"}
