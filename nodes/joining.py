"""Ray, started here or joined where it runs: the module is passed, since only nodes.cluster imports it."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from semcom.contracts import SemcomError

_CONNECT_TIMEOUT_S = 5.0
# From 2.60 on, a cluster asks for the token in its user's home by default, and a client offers it if told.
_START_ONE = (
    "start one with `ray start --head`, set RAY_AUTH_MODE=token if it asks for a token, "
    "or leave --address out"
)

# What is the same whether Ray is started or joined. Without the first, Ray warns that it is about to
# stop hiding accelerators from jobs that reserve none; with the second, `uv run` would copy the folder.
_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def start_ray(ray: Any, num_workers: int) -> None:
    """Starts Ray on this machine. Raises SemcomError if that fails."""
    # The workers inherit the environment and so import what this process can import.
    with _environment({**_ENVIRONMENT, "PYTHONPATH": _search_path()}):
        try:
            _init_ray(ray, address="local", num_cpus=num_workers, include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise SemcomError(f"Ray could not be started ({_first_line(error)}): use --workers 0") from error


def join_ray(ray: Any, address: str) -> None:
    """Joins the Ray cluster at an address. Raises SemcomError if there is none."""
    with _environment(_ENVIRONMENT):
        try:
            _init_ray(ray, address=address, runtime_env={"env_vars": {"PYTHONPATH": _search_path()}})
        except (OSError, RuntimeError, ValueError) as error:
            raise SemcomError(f"no Ray cluster at {address} ({_first_line(error)}): {_START_ONE}") from None


def check_that_something_answers(address: str) -> None:
    """Raises SemcomError if nothing listens at "host:port" or "ray://host:port"."""
    # Ray itself would try for a minute and then log pages.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise SemcomError(f"no Ray cluster answers at {address} ({error}): {_START_ONE}") from None


def _init_ray(ray: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(log_to_driver=False, logging_level="CRITICAL", **options)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _search_path() -> str:
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
