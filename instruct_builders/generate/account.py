"""What a run asked, received, threw away and spent, as plain numbers."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from . import settings

if TYPE_CHECKING:
    from .engine import Engine

TRANSPORT_REASONS = ("rate_limited", "overloaded", "server_error", "connection", "timeout")


def of(engine: Engine, sent: Counter) -> dict:
    """The account of an engine; `sent` counts what its transport did. Documented at [`Engine.account`]."""
    # The progress line reads from another thread: copies first, which no other thread can come between.
    purposes = {name: dict(counts) for name, counts in sorted(engine.purposes.copy().items())}
    reasons, rejected = engine.reasons.copy(), engine.rejected.copy()
    total: Counter[str] = Counter()
    for counts in purposes.values():
        total.update(counts)
    tokens = {name: total[name] for name in ("prompt_tokens", "completion_tokens")}
    return {
        "model": engine.model,
        "server": settings.shown(engine.base_url) if engine.base_url else None,
        "demo": engine.demo,
        "journal": str(engine.journal_path),
        "questions": {name: total[name] for name in ("asked", "answered", "failed", "replies")},
        "usage": {**tokens, "estimated_replies": total["estimated"]},
        "cost": engine.budget.charge(*tokens.values())["cost"] if engine.prices else None,
        "reasons": dict(sorted(reasons.items())),
        "purposes": {name: dict(sorted(counts.items())) for name, counts in purposes.items()},
        "rejected": dict(sorted(rejected.items())),
        "run": {
            "from_journal": engine.counts["from_journal"],
            "repeated": engine.counts["retries"],
            **{name: sent[name] for name in ("requests", "replies", "given_up", *TRANSPORT_REASONS)},
            "spent": dict(engine.budget.spent),
            "spent_before": dict(engine.budget.before),
            "seconds": round((engine.ended or time.monotonic()) - engine.started, 3),
            "stopped": None if engine.stopped is None else str(engine.stopped),
        },
    }


def in_words(engine: Engine) -> str:
    """A line on what this run did and was charged; money only where prices were given."""
    account = engine.account
    run = account["run"]
    cost = f", cost {run['spent']['cost']:.4f}" if engine.prices else ""
    full = " (charged in full where the server stated no usage)" if account["usage"]["estimated_replies"] else ""
    return (
        f"{run['requests']:,} requests in {run['seconds']:.1f} s, {run['from_journal']:,} answers from the journal, "
        f"{run['spent']['tokens']:,} tokens{cost}{full}"
    )
