"""The pages are served to browsers, with their policy, and nothing else of the package is."""

import re
from pathlib import Path

import httpx
import pytest

from serve_app.access.check import Access
from serve_app.config import AppSettings
from serve_app.dialects import ollama, openai, reasoning
from serve_app.http.app import create_unusable_app
from serve_app.http.pages import FOLDER, PAGES, POLICY, load_files, prefers_html
from serve_app.routing.fleet import FleetView
from tests.unit.app import running

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
PARSERS = r"(inner|outer|insertAdjacent)HTML|document\.write|DOMParser|createContextualFragment|\beval\(|new Function|srcdoc"
WRITTEN = [path for path, folder in PAGES.items() if f"{folder}/index.html" in load_files()]


def test_there_are_pages() -> None:
    assert {"/", "/ui", "/docs"} <= set(WRITTEN)


@pytest.mark.parametrize(
    "path", [*WRITTEN, *(f"{path}/" for path in WRITTEN if path != "/"), "/pages/shared/theme.css", "/pages/shared/api.js"]
)
async def test_pages_and_files_have_the_policy(path: str) -> None:
    async with running(a={}) as app:
        page = await app.client.get(path, headers=BROWSER)
        head = await app.client.head(path, headers=BROWSER)
        again = await app.client.get(path, headers=BROWSER | {"if-none-match": f'"other", W/{page.headers["etag"]}'})
    assert page.status_code == head.status_code == 200
    assert page.headers["content-security-policy"] == POLICY
    assert (page.headers["x-content-type-options"], page.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert page.headers["content-type"].endswith("; charset=utf-8")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(page.content)))
    assert (again.status_code, again.content) == (304, b"")


async def test_only_browsers_get_a_page_at_the_root() -> None:
    async with running(a={}) as app:
        for accept in ("*/*", "application/json", "application/json, text/html;q=0.5", ""):
            answer = await app.client.get("/", headers={"accept": accept})
            assert answer.json()["name"] == "phi-serve", accept
        page = await app.client.get("/", headers=BROWSER)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "accept" in page.headers["vary"].lower()
        ollama_client = await app.client.get("/", headers={"host": "localhost:11434"})
        assert ollama_client.text == "Ollama is running"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER["accept"], True), ("text/html", True), ("TEXT/HTML;q=0.2", True), ("", False), ("*/*", False), ("text/*", False),
        ("text/html;q=0", False), ("text/html;q=x", False), ("application/json;q=0.9, text/html;q=0.8", False),
        ("text/plain, text/html;q=0.9", False), (",;q=,", False), ("application/json, text/html", True),
    ],
)  # fmt: skip
def test_who_prefers_html(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


@pytest.mark.parametrize(
    "path",
    ["/pages/__init__.py", "/pages/ui", "/pages/ui/", "/pages/../__init__.py", "/pages/ui/../__init__.py", "/pages//ui/index.html",
     "/pages/ui%2findex.html", "/pages/..%2f__init__.py", "/pages/ui/index.html/", "/pages/ui/index.html\x00",
     "/ui/index.html", "/UI"],
)  # fmt: skip
async def test_no_other_path_leads_to_a_file(path: str) -> None:
    async with running(a={}) as app:
        answer = await app.client.get(path.replace("\x00", "%00"), headers=BROWSER)
        assert answer.status_code == 404 or path == "/pages/ui%2findex.html", answer.text  # the server decodes %2f, as any does
        assert (await app.client.post("/ui", headers=BROWSER)).status_code == 404


async def test_pages_are_there_before_there_is_a_key_and_where_no_model_can_be_served(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    async with running({"access": {"keys_file": str(keys), "journal_dir": None}}, a={}) as app:
        assert (await app.client.get("/ui")).status_code == 200
        assert (await app.client.get("/", headers=BROWSER)).status_code == 200
        assert (await app.client.get("/")).status_code == 401
    settings = AppSettings.model_validate({"engines": {"a": {"kind": "fake"}}, "access": "open"})
    view = FleetView(settings.engines, 60)
    dialects = (openai.DIALECT, ollama.DIALECT, reasoning.DIALECT)
    unusable = create_unusable_app(settings, lambda: view.snapshot(0), dialects, dict, Access(settings.access))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(unusable), base_url="http://test") as client:
        for path in WRITTEN:
            assert (await client.get(path, headers=BROWSER)).status_code == 200
        assert (await client.get("/")).status_code == 503


async def test_the_rules_for_hosts_and_origins_hold_for_pages() -> None:
    async with running(a={}) as app:
        assert (await app.client.get("/ui", headers={"host": "evil.example"})).status_code == 403
        assert (await app.client.get("/ui", headers={"origin": "https://evil.example"})).status_code == 403


def test_pages_keep_to_their_policy() -> None:
    """No script or style in a page itself, no address of another server, nothing that parses text as HTML."""
    for name, file in load_files().items():
        text = file.content.decode()
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=", text), name
            assert all(re.search(r"\ssrc=", each) for each in re.findall(r"<script[^>]*>", text)), name
        if name.endswith((".html", ".css", ".js")):
            found = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org"}
            assert not found, (name, found)
        if name.endswith(".js"):
            assert not re.search(PARSERS, text), name
        assert len(text.splitlines()) <= 400, name


def test_every_file_that_a_page_names_exists() -> None:
    for name, file in load_files().items():
        for path in re.findall(r"[\"'(]/pages/([\w./-]+)[\"')]", file.content.decode()):
            assert path in load_files(), (name, path)


def test_every_file_is_served() -> None:
    served = {str(FOLDER / name) for name in load_files()}
    there = {str(path) for path in FOLDER.glob("*/*") if path.is_file() and path.suffix != ".pyc"}
    assert there == served
