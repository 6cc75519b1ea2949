"""Every error that this package raises on purpose. Each message says what was given, what is allowed, what to do.

InstructError
├── ConfigError        a YAML key, a flag or an argument (also a ValueError)
├── SourceError        a file, folder or Hub repository that can't be read
├── RowError           one row that can't be read, converted or written (also a ValueError)
├── TooManyRejected    more rows rejected than `max_bad_fraction` allows
├── BuildError         a build that can't finish or an output directory that can't be written
├── GenerationError    a run that asks a model and can't go on: wrong key, refused request, full disk, journal in use
├── Stopped            a run that asks a model and stopped early, with everything kept: budget, interrupt, patience
├── PublishError       a push to the Hub that did not happen
│   └── SecretFound    a file to be pushed holds something that looks like a credential
└── TemplateError      a chat template that can't be used as asked
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class InstructError(Exception):
    """Base class: `except InstructError` catches everything this package raises on purpose."""


class ConfigError(InstructError, ValueError):
    """A configuration that can't be right."""


class SourceError(InstructError):
    """A source that can't be read."""


class RowError(InstructError, ValueError):
    """One row that can't be used.

    Args:
        message (`str`): What is wrong and what would be right.
        reason (`str`): One of [`instruct_builders.records.REASONS`].
        row (`int`, *optional*): 0-based position of the row in its table.
        field (`str`, *optional*): The field at fault, such as `messages[2].role`.
    """

    def __init__(self, message: str, *, reason: str, row: int | None = None, field: str | None = None):
        place = "" if row is None else f"row {row}"
        place += f", field {field!r}" if field and place else f"field {field!r}" if field else ""
        super().__init__(f"{place}: {message}" if place else message)
        self.message, self.reason, self.row, self.field = message, reason, row, field

    def __reduce__(self):
        # The default rebuilds from `args` alone, which breaks on its way back from a worker process.
        return _rebuild_row_error, (self.message, self.reason, self.row, self.field)


def _rebuild_row_error(message: str, reason: str, row: int | None, field: str | None) -> RowError:
    return RowError(message, reason=reason, row=row, field=field)


class TooManyRejected(InstructError):
    """More rows were rejected than the configuration allows."""


class BuildError(InstructError):
    """A build that can't finish, or whose output can't be written."""


class GenerationError(InstructError):
    """A run that asks a model and can't go on until something is put right; what was answered is in the journal."""

    exit_code = 4


class Stopped(InstructError):
    """A run that asks a model and stopped before its end; the same command goes on from the journal.

    Args:
        message (`str`): One line: why.
        exit_code (`int`, *optional*, defaults to 3): 3 incomplete, 5 a budget is used up, 130 interrupted.
    """

    def __init__(self, message: str, exit_code: int = 3):
        super().__init__(message)
        self.exit_code = exit_code


class PublishError(InstructError):
    """A push that did not happen; the Hub repository is as it was."""


class SecretFound(PublishError):
    """A file to be pushed holds something that looks like a credential."""


class TemplateError(InstructError):
    """A chat template that can't be used as asked."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest allowed name, or an empty string where none is close."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def own_error(error: BaseException, target: str | os.PathLike) -> BaseException:
    """The error of this package, or of the disk under `target`, that lies behind `error`; else `error` itself.

    `datasets` wraps what a builder raises, and calls a full disk a missing data file.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InstructError):
            return cause
        if isinstance(cause, OSError) and cause.errno in DISK:
            return BuildError(f"{os.strerror(cause.errno)}: {target} could not be written. It is as it was.")
        cause = cause.__cause__ or cause.__context__
    return error
