"""What stands behind transports, where that is in their own process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from server.engine.quotas import ModelLimits
from server.engine.uploads import Arrival, Uploads
from server.pipeline.roster import Roster
from server.pipeline.shadow import Shadow
from server.pipeline.study import ShadowPlan


class LocalEntrance:
    """`server.api.service.Entrance`, by the gate itself."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    @asynccontextmanager
    async def receive(self, announced: int = 0) -> AsyncIterator["LocalArriving"]:
        with self._uploads.receive(announced) as arrival:
            yield LocalArriving(arrival)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        with self._uploads.stream():
            yield


class LocalArriving:
    """`server.api.service.Arriving`, by the arrival itself."""

    def __init__(self, arrival: Arrival) -> None:
        self._arrival = arrival

    async def reserve(self, most: int) -> None:
        await self._arrival.reserve(most)

    async def add(self, size: int) -> None:
        self._arrival.add(size)


class LocalAdmin:
    """`server.api.service.Admin`, by the roster and the shadow themselves."""

    def __init__(self, roster: Roster, shadow: Shadow) -> None:
        self._roster = roster
        self._shadow = shadow

    async def models(self) -> list[dict[str, Any]]:
        return self._roster.listing()

    async def put_model(self, name: str, directory: str, limits: ModelLimits | None) -> Mapping[str, Any]:
        return await self._roster.put(name, directory, limits)

    async def remove_model(self, name: str) -> Mapping[str, Any]:
        return self._roster.remove(name)

    async def make_default(self, name: str) -> None:
        self._roster.make_default(name)

    async def begin_shadow(self, plan: ShadowPlan | None) -> None:
        self._shadow.begin(plan)

    async def shadow_report(self) -> dict[str, Any] | None:
        return self._shadow.report()
