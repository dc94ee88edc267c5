"""Part of `make tools`: a browser for the tests of the pages, and axe-core, which judges their accessibility. Installs nothing.

Chromium is Debian's: its packages and the libraries that are missing on this machine are unpacked side by side, and the browser
starts from there. A chromium on PATH is used as it is.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".cache" / "tools"
CHROMIUM = TOOLS / "chromium"
AXE_PACKAGE = "axe-core@4.14.1"
AXE = TOOLS / "axe" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root, and in containers without user namespaces
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_FOLLOWED = re.compile(r"lib|zlib1g$|chromium-common$|fontconfig-config$|fonts-dejavu")
"""Dependencies that a browser without a screen needs; the others are programs of desktops."""
_NEVER = frozenset({"libc6", "libc-bin", "libpam-runtime"})
"""Every Debian has these, and another libc than the system's cannot be loaded."""
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


def find_chromium() -> tuple[str, dict[str, str]] | None:
    """Return a browser and the environment it needs, from PATH or where `make tools` puts it."""
    if found := shutil.which("chromium"):
        return found, {}
    return find_fetched_chromium()


def find_fetched_chromium() -> tuple[str, dict[str, str]] | None:
    """Return the browser that `make tools` fetched, and the environment it needs."""
    program = CHROMIUM / "usr" / "lib" / "chromium" / "chromium"
    return (str(program), _describe_environment(CHROMIUM)) if program.exists() else None


def _describe_environment(root: Path) -> dict[str, str]:
    folders = sorted({str(file.parent) for file in root.glob("usr/lib/*/**/*.so*")} | {str(root / "usr" / "lib" / "chromium")})
    environment = {"LD_LIBRARY_PATH": ":".join(folders)}
    if (root / "fonts.conf").exists():
        environment["FONTCONFIG_FILE"] = str(root / "fonts.conf")
    return environment


def chromium(scratch: Path, *, is_installed: Callable[[str], bool] | None = None) -> None:
    """Unpack Debian's chromium and the libraries it lacks here, and take a picture of a page with it.

    `is_installed` returns whether a package need not be fetched; tests of this function say no to all.
    """
    is_installed = is_installed or _is_installed
    packages = [name for name in _list_dependencies("chromium") if name.startswith("chromium") or not is_installed(name)]
    _run("apt-get", "download", *packages, folder=scratch)
    partial = CHROMIUM.with_name("chromium.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in sorted(scratch.glob("*.deb")):
        _run("dpkg", "-x", str(file), str(partial), folder=scratch)
    for folder in ("lib", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/chromium/locales"):
        _join_or_remove(partial, folder)
    if not Path("/etc/fonts/fonts.conf").exists() or not is_installed("fontconfig-config"):
        # It moves once more, so the final place is written.
        text = _FONTS.format(fonts=CHROMIUM / "usr" / "share" / "fonts", cache=CHROMIUM / "fonts")
        (partial / "fonts.conf").write_text(text)
    shutil.rmtree(CHROMIUM, ignore_errors=True)
    partial.rename(CHROMIUM)
    try:
        _require_picture(scratch)
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(CHROMIUM)
        raise


def _join_or_remove(root: Path, folder: str) -> None:
    """Remove what no page needs; move libraries of /lib to those of /usr/lib, as in any merged Debian."""
    if folder == "lib":
        for file in (root / "lib").glob("*/*"):
            target = root / "usr" / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    if folder != "usr/lib/chromium/locales":
        shutil.rmtree(root / folder, ignore_errors=True)
        return
    for file in (root / folder).glob("*.pak"):
        if not file.name.startswith("en-US"):
            file.unlink()


def _list_dependencies(name: str) -> list[str]:
    """Return a package and what it needs, by the names that `_FOLLOWED` matches; of alternatives the first."""
    without = ("--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances")
    command = ("apt-cache", "depends", "--recurse", *without, name)
    needed: dict[str, list[str]] = {}
    package, is_alternative = "", False
    for line in subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.splitlines():
        if match := re.match(r"\s+(\|?)(?:Pre)?Depends: (\S+)$", line):
            if not is_alternative:
                needed[package].append(match[2])
            is_alternative = bool(match[1])  # the next line is one to this
        elif re.match(r"[a-z0-9]", line):
            package, is_alternative = line.strip(), False
            needed.setdefault(package, [])
    found, waiting = [name], [name]
    while waiting:
        for each in needed.get(waiting.pop(), ()):
            if each not in found and each not in _NEVER and _FOLLOWED.match(each):
                found.append(each)
                waiting.append(each)
    return found


def _is_installed(name: str) -> bool:
    shown = subprocess.run(("dpkg-query", "-W", "-f", "${Status}", name), check=False, capture_output=True, text=True, timeout=60)
    return shown.stdout.endswith(" installed")


def _require_picture(scratch: Path) -> None:
    found = find_fetched_chromium()
    assert found is not None
    program, environment = found
    page, picture = scratch / "page.html", scratch / "picture.png"
    page.write_text("<!doctype html><title>It starts</title><p>It starts.")
    command = (
        program,
        *FLAGS,
        f"--user-data-dir={scratch / 'profile'}",
        f"--screenshot={picture}",
        "--window-size=320,200",
        page.as_uri(),
    )
    _run(*command, folder=scratch, environment=os.environ | environment)
    if not picture.exists():
        raise OSError("the browser took no picture")


def axe(scratch: Path) -> None:
    """An npm package (MPL-2.0) with one file that runs inside a page; used by tests only, and not changed."""
    from tests.cluster.fetch_tools import install_js

    install_js(scratch, "axe", AXE_PACKAGE)


def _run(*command: str, folder: Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run(
        command, cwd=folder, env=environment, check=True, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
