"""Builders over files that a test writes."""

from __future__ import annotations

import pytest
import yaml
from flan_tasks import task, write_jsonl

from instruct_builders import Flan


@pytest.fixture
def flan(tmp_path):
    """Builds a task of the given rows, or the given ones; returns the builder."""

    def run(found=None, spec=None, num_proc=None, **options):
        if "tasks" not in options and "collection" not in options:
            (tmp_path / "mood.yaml").write_text(yaml.safe_dump(spec or task(), sort_keys=False))
            if found is not None:
                write_jsonl(tmp_path / "rows.jsonl", found)
            options["tasks"] = str(tmp_path / "mood.yaml")
        builder = Flan(cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder

    return run
