"""Who may ask at all, by address, before anything else is looked at."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from admin.asking import API_VERSION
from admin.readiness import LIVEZ, READYZ
from sniproxy.networks import Networks, parse_address


class AllowedOnly:
    """Refuses with 403 whoever comes from elsewhere. The address is the connection's: headers can say anything.

    Not where it is asked whether it is ready: a kubelet asks that from a node's address.
    """

    def __init__(self, app: ASGIApp, networks: Networks) -> None:
        self._app = app
        self._networks = networks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_to_all = scope["type"] != "http" or scope["path"] in (LIVEZ, READYZ)
        if not open_to_all and not self._may(scope["client"][0]):
            body = {"error_msg": f"{scope['client'][0]} is not in admin.allow"}
            refusal = JSONResponse(body, 403, API_VERSION | {"Connection": "close"})
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _may(self, host: str) -> bool:
        return parse_address(host) in self._networks
