"""The methods of the protocol: what each of them answers, in a thread."""

import time
from collections.abc import Callable

import grpc

from imageserve import metrics
from imageserve.grpc_server.calls import Calls, Pending
from imageserve.grpc_server.codec import read_request, write_response
from imageserve.grpc_server.messages import Fields, decoded, response
from imageserve.inference.answer import error_of, output_tensors
from imageserve.inference.contract import version_name
from imageserve.inference.request import InferRequest
from imageserve.web.answers import timings, version_header
from imageserve.web.assembly import Assembly
from imageserve.web.inference_pages import InferencePages
from imageserve.web.options import ClassifyOptions
from imageserve.web.outcomes import Answer
from imageserve.web.parameters import infer_options
from imageserve.web.upload import UploadLimits, checked

ONLY_REST = ("model_configuration", "statistics")
"""Extensions of the protocol for which its service of gRPC has no methods."""


class Inference:
    """Answers calls, as the predictor and the queues tell."""

    def __init__(self, parts: Assembly, limits: UploadLimits, is_ready: Callable[[], bool]) -> None:
        entries = {name: served.entry for name, served in parts.predictor.models.items()}
        self._pages = InferencePages(entries, parts.monitor, limits.max_images)
        self._predictor = parts.predictor
        self._limits = limits
        self._is_ready = is_ready

    def handlers(self, calls: Calls) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handler of each method."""
        known = {
            "ServerLive": lambda _: response("ServerLive", live=True),
            "ServerReady": lambda _: response("ServerReady", ready=self._is_ready()),
            "ServerMetadata": self._server_metadata,
        }
        lookups = {"ModelReady": self._model_ready, "ModelMetadata": self._model_metadata}
        handlers = {name: calls.at_once(name, answer) for name, answer in known.items()}
        handlers |= {name: calls.lookup(name, answer) for name, answer in lookups.items()}
        handlers["ModelInfer"] = calls.with_pictures("ModelInfer", self._infer)
        return handlers

    def _server_metadata(self, _: Pending) -> Fields:
        told = self._pages.server()
        extensions = [each for each in told["extensions"] if each not in ONLY_REST]
        return response("ServerMetadata", **{**told, "extensions": extensions})

    def _model_ready(self, pending: Pending) -> Fields:
        message = decoded("ModelReady", pending.message)
        return response("ModelReady", ready=self._pages.is_ready(message.name, message.version))

    def _model_metadata(self, pending: Pending) -> Fields:
        message = decoded("ModelMetadata", pending.message)
        return response("ModelMetadata", **self._pages.metadata(message.name, message.version))

    def _infer(self, pending: Pending) -> Fields:
        message = decoded("ModelInfer", pending.message)
        pending.message = b""  # It is in memory twice.
        request = read_request(message, self._limits.max_images)
        pending.call.pictures = len(request.pictures)
        model = pending.call.model = self._predictor.model(message.model_name or None).entry.name
        head = ClassifyOptions(
            model=model,
            top=1,
            timeout_s=pending.timeout_s,
            request_id=pending.call.request_id,
            context=pending.call.context,
            priority=pending.caller.priority,
            caller=pending.caller,
            version=message.model_version,
        )
        answers = self._answers(request, infer_options(request, head), pending)
        pending.call.timings = timings(answers)
        versions = ", ".join(dict.fromkeys(version_name(each.version) for each in answers))
        return write_response(message, model, versions, output_tensors(request, answers))

    def _answers(
        self, request: InferRequest, options: ClassifyOptions, pending: Pending
    ) -> list[Answer]:
        """Return an answer for each picture. Raises the error of one where there is one."""
        self._predictor.check(options)
        self._predictor.line.check(
            options.asked(time.monotonic()), pictures=len(request.pictures), is_read=True
        )
        pictures = [
            checked(each, self._limits) if isinstance(each, bytes) else each
            for each in request.pictures
        ]
        with metrics.request_seconds.time():
            answers = self._predictor.predict(pictures, options, pending.wait)
        pending.call.version = version_header(each.version for each in answers)
        if error := error_of(answers):
            raise error
        return [each for each in answers if isinstance(each, Answer)]
