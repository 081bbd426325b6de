"""provisional"""
import struct
from collections.abc import Callable
from typing import Any

import grpc
from imageserve import __version__
from imageserve.errors import RequestError, BadRequest
from imageserve.config.settings import Settings
from imageserve.grpc_server.calls import Asked, Calls
from imageserve.grpc_server.messages import Fields, decoded, response
from imageserve.web.assembly import Assembly
from imageserve.web.predict import ClassifyOptions


class Inference:
    def __init__(self, parts: Assembly, is_ready: Callable[[], bool], settings: Settings) -> None:
        self._predictor = parts.predictor
        self._monitor = parts.monitor
        self._is_ready = is_ready

    def handlers(self, calls: Calls) -> dict[str, grpc.RpcMethodHandler]:
        look = {"ServerLive": self._live, "ServerReady": self._ready}
        return {**{n: calls.lookup(n, a) for n, a in look.items()},
                "ModelInfer": calls.with_pictures("ModelInfer", self._infer)}

    def _live(self, asked: Asked) -> Fields:
        return response("ServerLive", live=True)

    def _ready(self, asked: Asked) -> Fields:
        return response("ServerReady", ready=self._is_ready())

    def _infer(self, asked: Asked) -> Fields:
        m = decoded("ModelInfer", asked.message)
        pictures = [raw[4:] for raw in m.raw_input_contents]
        o = ClassifyOptions(m.model_name or None, 5, asked.timeout_s, asked.call.request_id, priority=asked.priority)
        answers = self._predictor.predict(pictures, o, asked.wait)
        for a in answers:
            if isinstance(a, RequestError): raise a
        asked.call.pictures = len(answers)
        r = response("ModelInfer", model_name=m.model_name, id=m.id)
        out = r.outputs.add(); out.name = "probabilities"; out.datatype = "BYTES"; out.shape.extend([1, 5])
        data = b""
        for p in answers[0].predictions:
            t = f"{p.probability}:0:{p.label}".encode(); data += struct.pack("<I", len(t)) + t
        r.raw_output_contents.append(data)
        return r
