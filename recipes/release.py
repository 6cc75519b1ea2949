"""Proves a trained model and publishes it, adapter, merged or whole, with its card: one YAML is one release.

    python recipes/release.py --config recipes/release/release_adapter.yaml [--key value ...]

Every key of `trainers.release.ReleaseArguments` is a YAML key and a flag. What is pushed is in `release` beside
`model_dir`; `--dry_run` makes it and pushes nothing. The same command a second time says "already published".
"""

from __future__ import annotations

import arguments
import terminal

from trainers.release import ReleaseArguments, release


def read_arguments(argv: list[str] | None = None) -> ReleaseArguments:
    return arguments.parse((ReleaseArguments,), argv)[0]


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(argv)
    terminal.show_log()
    release(args, show=print)


if __name__ == "__main__":
    arguments.run(main)
