"""The database file of the SQLite store: where it lies, who may read it, and its schema's version."""

import logging
import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path

from serve_app.errors import StoreUnavailable

logger = logging.getLogger(__name__)

FILE = "state.sqlite3"
APPLICATION_ID = 0x70686973
"""Marks the file as this application's: "phis"."""
MIGRATIONS = (
    """
    CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL);
    CREATE INDEX entries_expires ON entries (expires) WHERE expires IS NOT NULL;
    CREATE TABLE counts (
        key TEXT NOT NULL, window_s INTEGER NOT NULL, start INTEGER NOT NULL, sum INTEGER NOT NULL, expires REAL,
        PRIMARY KEY (key, window_s, start)
    ) WITHOUT ROWID;
    CREATE INDEX counts_expires ON counts (expires) WHERE expires IS NOT NULL;
    CREATE TABLE leases (key TEXT NOT NULL, token TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (key, token)) WITHOUT ROWID;
    CREATE INDEX leases_expires ON leases (expires);
    CREATE TABLE batches (name TEXT PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX batches_expires ON batches (expires);
    """,
)
"""The script at i makes version i + 1 of version i. A released one is never changed."""
VERSION = len(MIGRATIONS)
_PAGE_BYTES = 4096
_WAL_BYTES = 4 << 20


def open_database(folder: Path, *, busy_s: float, max_bytes: int) -> sqlite3.Connection:
    """Open the file in `folder`, made if need be, at the present version; raises `sqlite3.Error`, `OSError`, `StoreUnavailable`."""
    file = _prepare(folder)
    database = sqlite3.connect(file, timeout=busy_s, isolation_level=None)
    try:
        _use_wal(database, busy_s)
        # NORMAL: what was committed survives every kill of the process; only a power cut may lose the last commits.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute(f"PRAGMA max_page_count = {max(1, max_bytes // _PAGE_BYTES)}")
        _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(folder: Path) -> Path:
    """Make the folder and an empty file that only this user can read; SQLite gives its other files the same mode."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        logger.warning("store: others may enter %s; its files are readable by this user only all the same", folder)
    file = folder / FILE
    # No descriptor: closing one would drop the locks of every connection that this process has to the file.
    with suppress(FileExistsError):
        os.mknod(file, 0o600 | stat.S_IFREG)
    mode = os.lstat(file).st_mode
    if not stat.S_ISREG(mode):
        raise StoreUnavailable(f"{FILE} in the store's folder is not a regular file; move it away", reason="broken")
    if stat.S_IMODE(mode) & 0o077:
        os.chmod(file, 0o600)
    return file


def _use_wal(database: sqlite3.Connection, busy_s: float) -> None:
    """Turn the write-ahead log on, which needs the file for itself once; SQLite does not wait for that by itself."""
    give_up = time.monotonic() + busy_s
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)  # on the store's own thread; the event loop does not wait


def _migrate(database: sqlite3.Connection) -> None:
    if _read(database, "user_version") == VERSION and _read(database, "application_id") == APPLICATION_ID:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        version = _read(database, "user_version")
        if version and _read(database, "application_id") != APPLICATION_ID:
            raise StoreUnavailable(f"{FILE} in the store's folder is another program's; move it away", reason="broken")
        if version > VERSION:
            raise StoreUnavailable(
                f"{FILE} has version {version} of the store's schema, and this phi-serve knows {VERSION} at most. "
                "Use the newer phi-serve, or `phi-serve state export` there and `import` here",
                reason="broken",
            )
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _read(database: sqlite3.Connection, pragma: str) -> int:
    with closing(database.execute(f"PRAGMA {pragma}")) as rows:
        value: int = rows.fetchone()[0]
    return value
