"""The web server of the first version: queues a picture, then asks and asks for its answer."""

import io
import json
import time
import uuid
from typing import Any

import redis
from flask import Flask, Response, jsonify, request
from PIL import Image

from bench.first_version import helpers, settings

app = Flask(__name__)
db: Any = redis.Redis(
    host=settings.REDIS_HOST, port=settings.REDIS_PORT, db=settings.REDIS_DB, protocol=2
)


@app.route("/predict", methods=["POST"])
def predict() -> Response:
    data: dict[str, Any] = {"success": False}
    upload = request.files.get("image")
    if upload:
        picture = Image.open(io.BytesIO(upload.read()))
        image = helpers.prepare_image(picture, (settings.IMAGE_WIDTH, settings.IMAGE_HEIGHT))
        k = str(uuid.uuid4())
        d = {"id": k, "image": helpers.base64_encode_image(image)}
        db.rpush(settings.IMAGE_QUEUE, json.dumps(d))
        while True:
            output = db.get(k)
            if output is not None:
                data["predictions"] = json.loads(output.decode("utf-8"))
                db.delete(k)
                break
            time.sleep(settings.CLIENT_SLEEP)
        data["success"] = True
    return jsonify(data)
