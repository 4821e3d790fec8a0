"""Why a real pass could not be made."""

from __future__ import annotations


class MeasureError(RuntimeError):
    """No real pass could be made; the message says why and what would help. The caller's model is as it was."""


class DeviceError(MeasureError):
    """The device asked for is not there; the message lists those that are."""


class DataError(MeasureError):
    """The data cannot be read, or does not fit the model."""
