"""Routes for vLLM's own server: receipts of what was done to a request, and the vectors there are. An entry point of
`vllm.endpoint_plugins`; vLLM loads it where `VLLM_PLUGINS` names trimtab.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimtab.serving.shelf import listed
from trimtab.serving.vllm_lines import named, shelf
from trimtab.serving.vllm_plugin import KEY, projections


class Routes:
    """GET /v1/steering, and /v1/steering/receipts/ID with the id of an answer."""

    name = KEY
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.engine: Any = None

    def attach_router(self, app: Any) -> None:
        app.add_route("/v1/steering", self.vectors, methods=["GET"])
        app.add_route("/v1/steering/receipts/{id}", self.receipt, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        self.engine = engine_client

    async def vectors(self, request: Request) -> Response:
        settings = self.engine.vllm_config.additional_config.get(KEY) or {}
        known = shelf(str(settings["vectors"])) if settings.get("vectors") else {}
        return JSONResponse({"object": "list", "data": [listed(name, v) for name, v in known.items()]})

    async def receipt(self, request: Request) -> Response:
        told = await self.engine.collective_rpc("trimtab_receipt", args=(request.path_params["id"],))
        if told[0] is None:
            return JSONResponse({"error": {"message": "no such request, or nothing was asked of it"}}, 404)
        settings = self.engine.vllm_config.additional_config.get(KEY) or {}
        names = named(str(settings["vectors"]))
        along = {names[hash]: mean for hash, mean in projections(told) if hash in names}
        return JSONResponse({"tokens_edited": told[0]["edited"], "projection": along})
