"""The one place that talks to Ray: a session, a function over numbered items, and tables brought together by a key.

Ray Data runs everything: it places the tasks, runs those of a lost worker again, and shuffles. What a task leaves for
later it writes to the work folder whole or not at all, so that it may run twice.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import os
import pickle
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from ..errors import BuildError, ConfigError, SourceError, TooManyRejected

CONNECT_SECONDS = 10
QUIET = ("ray", "ray.data")
CARRIED = "carried:"
RAISED = (ConfigError, SourceError, TooManyRejected, BuildError)  # made of their text alone


@contextmanager
def session(num_cpus: int | None = None) -> Iterator[None]:
    """Ray while the block runs: the cluster that `RAY_ADDRESS` names, or else one on this machine, on loopback alone.

    A Ray that the caller has already started is used and left running; one that is started here is always ended. No
    usage statistics, no dashboard.

    Args:
        num_cpus (`int`, *optional*): Cores to use, where a Ray is started here. All of them by default.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster at `RAY_ADDRESS`.
    """
    check_installed()
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_reachable(address)
    with _environment(address == "local"):
        import ray
        import ray.data

    before = {name: logging.getLogger(name).level for name in QUIET}
    own = not ray.is_initialized()
    try:
        if own:
            _start(ray, address, num_cpus)
        _configure(ray)
        for name in QUIET:  # a line for every step, otherwise; an error is raised, and need not be told twice
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        if own:
            ray.shutdown()
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def check_installed() -> None:
    specs = [importlib.util.find_spec(name) for name in ("ray", "pandas")]
    if any(spec is None or spec.origin is None for spec in specs):  # a mere folder, as recipes/ray is, has none
        raise ConfigError(
            'engine: ray needs Ray Data, which is not installed. Do: pip install "instruct-builders[ray]", or leave '
            "engine out."
        )


@contextmanager
def _environment(alone: bool) -> Iterator[None]:
    """What Ray reads when it is imported: no usage statistics, and no other address than loopback on one machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # off, Ray keeps to 127.0.0.1, on Linux as well
    before = os.environ.get(name)
    if alone and before is None:
        os.environ[name] = "0"
    try:
        yield
    finally:
        if alone and before is None:
            del os.environ[name]


def _start(ray, address: str, num_cpus: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        # A shuffle's tasks have processes of their own: without room for both kinds each step would start new ones.
        room = 4 * (num_cpus or os.cpu_count() or 1)
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            _system_config={"num_workers_soft_limit": room},
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise _unreachable(address, error) from error


def _check_reachable(address: str) -> None:
    """Ray itself takes minutes to give up."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"RAY_ADDRESS={address}: Ray Data does not run through Ray's client. Start the recipe on a machine of the "
            "cluster, with RAY_ADDRESS=HOST:PORT or auto."
        )
    host, _, port = address.rpartition(":")
    if not host:  # `auto` or `local`
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"RAY_ADDRESS={address}: no Ray cluster can be reached there ({error}). Start one with `ray start --head` and "
        "give its HOST:PORT (and RAY_AUTH_TOKEN, where it asks for one), or unset RAY_ADDRESS to stay on this machine."
    )


def _configure(ray) -> None:
    with warnings.catch_warnings():
        # Ray's own defaults set options that Ray itself calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0


def cores() -> int:
    """Cores of the cluster."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def each(items: Sequence, function: Callable, *args) -> list:
    """`function(item, *args)` for every item, one task each; the results in the order of the items.

    `args` are sent to a machine once, and what a task returns should be small: it comes to the driver.
    """
    if not items:
        return []
    with own_errors():
        results = _tasks(items, _pickled, function, args).take_all()
    return [pickle.loads(row["result"]) for row in sorted(results, key=lambda row: row["number"])]


def tables(items: Sequence, function: Callable, *args):
    """A Ray dataset of the tables that `function(item, *args)` returns, one task each; nothing runs yet."""
    return _tasks(items, _table, function, args)


def _tasks(items: Sequence, call: Callable, function: Callable, args: tuple):
    import ray

    given = ray.put((function, args))
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    numbered = ray.data.from_items(rows, override_num_blocks=len(rows))
    return numbered.map_batches(call, fn_kwargs={"given": [given]}, batch_size=None, batch_format="pyarrow")


def _pickled(batch: pa.Table, given: list) -> pa.Table:
    results = [pickle.dumps(result) for result in _results(batch, given)]
    return pa.table({"number": batch["number"], "result": pa.array(results, pa.large_binary())})


def _table(batch: pa.Table, given: list) -> pa.Table:
    return pa.concat_tables(_results(batch, given))


def _results(batch: pa.Table, given: list) -> list:
    import ray

    function, args = ray.get(given[0])
    with _carried():
        return [function(pickle.loads(item), *args) for item in batch["item"].to_pylist()]


def together(dataset, key: str, function: Callable, *args, parts: int):
    """Ray's group-by: `function(table, *args)` for all rows that share a value of the column `key`.

    Args:
        dataset: From [`tables`] or another [`together`].
        key (`str`): A column of integers, few enough values that each stands for many rows.
        function (`Callable`): Table -> table.
        args: Sent to a machine once.
        parts (`int`): Partitions of the shuffle.
    """
    import ray

    given = ray.put((function, args))
    grouped = dataset.groupby(key, num_partitions=parts)
    return grouped.map_groups(_group, fn_kwargs={"given": [given]}, batch_format="pyarrow")


def _group(batch: pa.Table, given: list) -> pa.Table:
    import ray

    function, args = ray.get(given[0])
    with _carried():
        return function(batch, *args)


def run(dataset) -> dict[str, np.ndarray]:
    """Runs a dataset and brings its columns to the driver, as numpy arrays; for what is small."""
    with own_errors():
        blocks = [batch for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow") if len(batch)]
    if not blocks:
        return {}
    table = pa.concat_tables(blocks)
    return {name: table[name].to_numpy() for name in table.column_names}


@contextmanager
def _carried() -> Iterator[None]:
    """Of what a task raises, Ray Data keeps the text alone: so what one of our errors says goes into it whole."""
    try:
        yield
    except RAISED as error:
        text = base64.b64encode(json.dumps([type(error).__name__, str(error)]).encode()).decode()
        raise RuntimeError(f"{type(error).__name__}: {error} [{CARRIED}{text}]") from error


@contextmanager
def own_errors() -> Iterator[None]:
    """What a task raised, as it was raised there."""
    try:
        yield
    except Exception as error:
        if (own := _own_error(str(error))) is not None:
            raise own from None
        raise BuildError(f"engine: ray: a task failed and running it again did not help: {error}") from error


def _own_error(text: str) -> Exception | None:
    """Read, never unpickled: the text may quote a row, and a row may hold whatever its author liked."""
    for found in reversed(re.findall(rf"\[{CARRIED}([A-Za-z0-9+/=]+)\]", text)):
        try:
            kind, message = json.loads(base64.b64decode(found, validate=True))
            return {one.__name__: one for one in RAISED}[kind](str(message))
        except (ValueError, TypeError, KeyError):  # not ours
            continue
    return None
