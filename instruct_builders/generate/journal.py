"""The journal: every reply that was received, good or bad, in SQLite, before anything else looks at it.

A question is known by a hash of what was asked, so that editing a filter or adding a seed asks nothing again. Commits
go to the operating system at once (a killed process loses nothing) and to the disk within seconds, from a thread.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import GenerationError

APPLICATION, VERSION = 0x1B5F10, 2  # SQLite's application_id and user_version
SYNC_SECONDS = 5.0  # how much a power failure may cost; a sync makes writers wait on some disks
SCHEMA = """
CREATE TABLE replies (
    question TEXT NOT NULL,     -- asking.prepare: model, messages, parameters, sample
    attempt INTEGER NOT NULL,   -- 0 for the first reply to it
    purpose TEXT NOT NULL,
    asked BLOB NOT NULL,        -- what was sent: JSON, compressed by zlib
    body BLOB NOT NULL,         -- what came back, byte for byte
    seconds REAL NOT NULL,      -- from sending to the last byte
    received REAL NOT NULL,     -- Unix time
    PRIMARY KEY (question, attempt)
);
CREATE TABLE given_up (question TEXT PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, started REAL NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0
);
CREATE TABLE batches (token TEXT PRIMARY KEY, batch TEXT, state TEXT NOT NULL, questions TEXT NOT NULL);
"""


@dataclass(frozen=True)
class GivenUp:
    """A question without a reply: a key of [`answers.DEFECTS`], and what the server or the connection said."""

    reason: str
    detail: str


class Journal:
    """The journal of one run; the only one that writes to its file.

    Args:
        path (`str`): The SQLite file; made where there is none.
        replay (`bool`, *optional*, defaults to `False`): Whether to read only: needs no lock, writes nothing.

    Raises:
        GenerationError: If another run holds it, another version or another program wrote it, or it can't be opened.
    """

    def __init__(self, path: str | os.PathLike, *, replay: bool = False):
        self.path, self.replay = Path(path), replay
        self.pending: list[tuple] = []
        self._lock = None if replay else self._lock_file()
        self._stop = threading.Event()
        self._syncer: threading.Thread | None = None
        try:
            self.db = self._open()
            if not replay:
                self.run = self.db.execute("INSERT INTO runs (started) VALUES (?)", (time.time(),)).lastrowid
                self.db.commit()
                self._syncer = threading.Thread(target=self._sync, name="journal-sync", daemon=True)
                self._syncer.start()
        except sqlite3.Error as error:
            self._unlock()
            raise self.failed(error) from error
        except BaseException:
            self._unlock()
            raise

    def _lock_file(self) -> FileLock:
        place = self.path.with_name(self.path.name + ".lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place)
            lock.acquire(timeout=0)
        except Timeout:
            raise GenerationError(
                f"{self.path}: another run is writing to this journal. Wait for it, or give another journal."
            ) from None
        except OSError as error:
            raise GenerationError(
                f"{self.path}: {error.strerror}. Give a journal in a folder you may write to."
            ) from error
        return lock

    def _open(self) -> sqlite3.Connection:
        if self.replay:
            if not self.path.is_file():
                raise GenerationError(f"{self.path}: there is no such journal to replay.")
            db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
        else:
            db = sqlite3.connect(self.path)
        if self._is_new(db) and not self.replay:
            db.executescript(
                f"PRAGMA journal_mode=WAL; BEGIN; {SCHEMA} PRAGMA application_id={APPLICATION}; "
                f"PRAGMA user_version={VERSION}; COMMIT;"
            )
        self._check_version(db)
        # A commit is a write to the operating system; _sync brings it to the disk without making anybody wait.
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        return db

    def _is_new(self, db: sqlite3.Connection) -> bool:
        """Whether nothing is in the file: it was just made, or its maker was killed before the first commit."""
        try:
            return not db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        except sqlite3.DatabaseError:
            return False  # _check_version says what is wrong

    def _check_version(self, db: sqlite3.Connection) -> None:
        try:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise GenerationError(f"{self.path} is not a journal ({error}). Give another path.") from error
        if application != APPLICATION:
            raise GenerationError(f"{self.path} is a database of another program. Give another path.")
        if version != VERSION:
            raise GenerationError(
                f"{self.path} was written by version {version} of the journal; this is version {VERSION}. Use the "
                "release that wrote it, or give another journal. It was not touched."
            )

    def replies(self, question: str) -> list[bytes]:
        """Bodies of the replies to a question, in the order of its attempts."""
        rows = self.db.execute("SELECT body FROM replies WHERE question = ? ORDER BY attempt", (question,))
        return [body for (body,) in rows]

    def given_up(self, question: str) -> GivenUp | None:
        """Why an earlier run gave up on a question without a reply: for `replay`, which has nobody to ask."""
        row = self.db.execute("SELECT reason, detail FROM given_up WHERE question = ?", (question,)).fetchone()
        return GivenUp(*row) if row else None

    def spent(self) -> dict:
        """Requests, tokens and cost of the earlier runs; what a killed run had in flight counts in full."""
        row = self.db.execute(
            "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(tokens), 0), COALESCE(SUM(cost), 0) FROM runs "
            "WHERE run IS NOT ?",
            (None if self.replay else self.run,),
        ).fetchone()
        return dict(zip(("requests", "tokens", "cost"), row, strict=True))

    def add(self, question: str, attempt: int, purpose: str, asked: bytes, body: bytes, seconds: float) -> None:
        """Puts a reply into the next commit."""
        packed = zlib.compress(asked, 1)
        self.pending.append((question, attempt, purpose, packed, body, seconds, time.time()))

    def give_up(self, question: str, why: GivenUp) -> None:
        """Notes in the next commit that a question stays without an answer."""
        self.pending.append((question, why.reason, why.detail))

    def commit(self, spent: dict | None = None) -> None:
        """Writes what was added, and what this run has spent or reserved so far, in one transaction.

        Raises:
            sqlite3.Error: Where the disk is full; what was added stays for the next call.
        """
        with self.db:
            replies = [row for row in self.pending if len(row) > 3]
            self.db.executemany(
                "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?) "
                # A batch is journaled as a whole before those who asked have noted what for.
                "ON CONFLICT (question, attempt) DO UPDATE SET purpose = excluded.purpose, asked = excluded.asked",
                replies,
            )
            failures = [row for row in self.pending if len(row) == 3]
            self.db.executemany("INSERT OR REPLACE INTO given_up VALUES (?, ?, ?)", failures)
            if spent is not None:
                self.db.execute(
                    "UPDATE runs SET requests = :requests, tokens = :tokens, cost = :cost WHERE run = :run",
                    {**spent, "run": self.run},
                )
        self.pending.clear()

    def _sync(self) -> None:
        """Brings commits to the disk: a passive checkpoint syncs the log first and never blocks the writer."""
        db = sqlite3.connect(self.path)
        while not self._stop.wait(SYNC_SECONDS):
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error:
                continue  # the writer meets the same full disk, and says so
        db.close()

    def failed(self, error: sqlite3.Error) -> GenerationError:
        """The one line for a journal that can't be written."""
        return GenerationError(
            f"{self.path}: the journal can't be written ({error}). Nothing more is sent; what it holds is safe. Make "
            "room and run the same command again."
        )

    def close(self) -> None:
        """Closes the file and gives the lock back; what is still pending is lost, so commit before."""
        self._stop.set()
        if self._syncer is not None:
            self._syncer.join()
        try:
            if not self.replay:
                self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            pass  # the log stays beside the file and is read with it the next time
        finally:
            self.db.close()
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
