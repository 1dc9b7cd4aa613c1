"""A Ray actor as a thin shell around a host, its messages, and how a death is told from an error."""

from __future__ import annotations

import gc
import io
import os
import pickle
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from nodes.process import compute_on_one_thread, release_freed_memory
from semcom.contracts import SemcomError


class Actor:
    """The shell of one actor: it makes a host and passes messages to it and back.

    Messages travel as one pickle each: left to Ray, each of their many small arrays would be stored
    and aligned by itself, and would arrive read-only.
    """

    def build(self, make_host: Callable[[Any], Any], shared: Any) -> int:
        compute_on_one_thread()
        self._host = make_host(shared)
        return os.getpid()

    def call(self, method: str, *arguments: Any) -> bytes:
        opened = [pickle.loads(a) if isinstance(a, bytes) else a for a in arguments]
        return pack(getattr(self._host, method)(*opened))

    def call_and_acknowledge(self, method: str, *arguments: Any) -> tuple[bytes, None]:
        """The driver waits for the second value, so that the first goes from actor to actor only."""
        return self.call(method, *arguments), None

    def repeat(self, calls: bytes) -> None:
        """Makes calls that were made before, of a host that died: (method, arguments), packed together."""
        for method, arguments in pickle.loads(calls):
            getattr(self._host, method)(*arguments)

    def clear(self) -> None:
        """Lets go of the host, which is closed if it can be."""
        if hasattr(self._host, "close"):
            self._host.close()
        del self._host
        gc.collect()
        release_freed_memory()

    def respond(self) -> None:
        """Tells the driver that the actor lives."""


def pack(message: Any) -> bytes:
    """Pickles a message. Tensors travel as arrays: torch writes an archive for each, many times as slow."""
    file = io.BytesIO()
    _Packer(file, protocol=pickle.HIGHEST_PROTOCOL).dump(message)
    return file.getvalue()


class _Packer(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not torch.Tensor:
            return NotImplemented
        try:
            return torch.from_numpy, (obj.numpy(),)
        except (TypeError, RuntimeError):  # a tensor that no array is like: bfloat16, or one with a gradient
            return NotImplemented


def responds(ray: Any, actor: Any) -> bool:
    """Whether an actor lives: waits for its answer, after the calls that it has already."""
    try:
        ray.get(actor.respond.remote())
    except ray.exceptions.RayError:
        return False
    return True


def is_a_death(ray: Any, error: Exception) -> bool:
    """Whether a call failed because an actor died, its own or one whose result it was to be given."""
    errors = ray.exceptions
    # A call whose argument was to come from a dead actor fails because of that actor's error.
    cause = error.cause if isinstance(error, errors.RayTaskError) else error
    return isinstance(
        cause,
        errors.RayActorError | errors.ObjectLostError | errors.OutOfMemoryError | errors.NodeDiedError,
    )


def reraise(error: Exception) -> NoReturn:
    """Raises what the remote code raised; Ray's text stays attached unless the user can mend the error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SemcomError):
        raise cause from None
    if isinstance(cause, Exception):
        raise cause from error
    raise error
