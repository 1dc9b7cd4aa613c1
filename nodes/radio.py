"""What the packets of one step meet on the air, asked of a channel for the devices that send them."""

from __future__ import annotations

import numpy as np

from semcom.contracts import Channel, RadioState


def radio_state(
    channel: Channel | None, sinr: np.ndarray | None, step: int, devices: np.ndarray
) -> RadioState | None:
    """Returns the state of N packets, to or from devices [N]; None without a channel.

    sinr: channel.sinr(step), [K, R], for who has it already; it is asked for if None.
    """
    if channel is None:
        return None
    rows_sinr = (channel.sinr(step) if sinr is None else sinr)[devices]
    return RadioState(rows_sinr, lambda rows, *at: channel.response(step, devices[rows], *at))
