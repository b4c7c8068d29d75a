"""What a coordinator is asked, checked to the field; answers are the structs of `qmtl.runtime.sdk.lease`."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Token = Annotated[str, Field(min_length=1, max_length=128)]
LeaseMs = Annotated[int, Field(ge=1, le=86_400_000)]
Seconds = Annotated[int, Field(ge=0, le=2**53)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Body(BaseModel):
    """Base of every request: no unknown field, no text where a number is meant."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class KeyBody(Body):
    """A series, and for which world."""

    node_id: Annotated[str, Field(min_length=1, max_length=1024)]
    interval: Annotated[int, Field(ge=1, le=2**31)]
    world_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class ClaimBody(Body):
    """POST /v1/leases/claim."""

    key: KeyBody
    start: Seconds
    end: Seconds
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    lease_ms: LeaseMs

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"range: expected start < end, got [{self.start}, {self.end})")
        return self


class RenewBody(Body):
    """POST /v1/leases/renew."""

    token: Token
    lease_ms: LeaseMs
    completion_ratio: Ratio | None = None


class CompleteBody(Body):
    """POST /v1/leases/complete."""

    token: Token


class FailBody(Body):
    """POST /v1/leases/fail."""

    token: Token
    reason: Annotated[str, Field(max_length=2000)]
