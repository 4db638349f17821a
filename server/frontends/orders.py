"""What the two processes say to one another, beside plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import ServerError
from server.frontends.arena import Where
from server.pipeline.header import ImageHeader
from server.pipeline.request import SegmentOptions
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """What a front end says of the engine process without asking.

    Attributes:
        unready_reason: Why no request should be sent here; None when requests are welcome.
        live: False when only a new process helps.
        models: What `/models` lists.
    """

    unready_reason: str | None
    live: bool
    models: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a front end is told first.

    Attributes:
        settings: Of this server.
        port: Of HTTP, that all front ends share.
        grpc_port: Of gRPC, likewise.
        secret: Of all of them, by which equal requests have equal fingerprints in each.
        keys: Files of API keys as the engine process has read them, by what they open.
        state: See there.
    """

    settings: Settings
    port: int
    grpc_port: int
    secret: bytes = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)
    state: State


@dataclass(frozen=True, slots=True)
class Order:
    """One request that has arrived whole.

    Attributes:
        handle: By which the front end knows its upload.
        size: Bytes of that.
        header: Of it, or what is wrong with it.
        options: How it is to be answered.
        account: Name of whose it is.
        request_id: Of it.
        fingerprint: See `server.pipeline.request.fingerprint`.
    """

    handle: int
    size: int
    header: ImageHeader | ServerError
    options: SegmentOptions
    account: str | None
    request_id: str
    fingerprint: int


@dataclass(frozen=True, slots=True)
class Asked:
    """One step of a refinement: where the arrays of each of its questions lie.

    Attributes:
        questions: Of a tile image, mask and frame, of a canvas its image alone.
        end: Bytes from which on there is room for the answers.
    """

    questions: tuple[tuple[Where, ...], ...]
    end: int
