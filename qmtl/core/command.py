"""Commands: what the engine wants done, imperative."""

import msgspec

from qmtl.core.order import Order


class SubmitOrder(msgspec.Struct, frozen=True, gc=False):
    """Send this order; its intent is recorded."""

    order: Order


class CancelOrder(msgspec.Struct, frozen=True, gc=False):
    """Cancel this order."""

    order: Order


class RequestReconcile(msgspec.Struct, frozen=True):
    """Ask the venue for its whole truth."""

    why: str


class RaiseAlert(msgspec.Struct, frozen=True):
    """Tell people."""

    code: str
    detail: str


Command = SubmitOrder | CancelOrder | RequestReconcile | RaiseAlert
