"""The layer that asks for API keys, before anything of a request's body is read."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access import Gate
from server.access.gate import Area
from server.api.rest.problems import answer_server_error
from server.api.rest.protocol import CERTIFIED
from server.api.rest.schemas import ADMIN_PREFIX, INFERENCE_PREFIX
from server.errors import UnauthenticatedError

_AREAS: dict[str, Area] = {
    "/livez": "probes",
    "/readyz": "probes",
    "/": "docs",
    "/docs": "docs",
    "/openapi.json": "docs",
    "/metrics": "metrics",
    "/models": "models",
    "/version": "models",
    f"{INFERENCE_PREFIX}/health/live": "probes",
    f"{INFERENCE_PREFIX}/health/ready": "probes",
    INFERENCE_PREFIX: "models",
}
"""By exact path; every other one, also one that does not exist, needs a key."""


def _area(path: str) -> Area:
    return "admin" if path.startswith(ADMIN_PREFIX) else _AREAS.get(path, "service")


class Gatekeeper:
    """ASGI layer between the boundary and the application. Sets `state.account`."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = ((name.decode("latin-1"), value) for name, value in scope["headers"])
        state = scope.setdefault("state", {})
        certified = bool(state.get(CERTIFIED))
        try:
            account = self._gate.admit(_area(scope["path"]), headers, certified=certified)
        except UnauthenticatedError as error:
            await answer_server_error(Request(scope), error)(scope, receive, send)
            return
        state["account"] = account
        await self._app(scope, receive, send)
