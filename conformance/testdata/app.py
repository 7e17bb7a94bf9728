"""A server of models in Python: which handler a path has, and which model a body names."""
import json
import re
import urllib.parse
from email.parser import BytesParser
from email.policy import HTTP


def handler(path):
    """The handler of a decoded path, as Starlette's routes and mounts would pick it."""
    for prefix, name in (("/v1/images", "heavy"), ("/v1/chat", "light"), ("/static", "pass")):
        if path == prefix or path.startswith(prefix + "/"):
            return name
    if re.match(r"^/jobs/[^/]+/run/?$", path):
        return "heavy"
    return "other"


def model(kind, body):
    """The field `model` of a body; None: the server finds none."""
    kind_only = kind.partition(";")[0].strip().lower()
    if kind_only == "application/x-www-form-urlencoded":
        fields = urllib.parse.parse_qs(body.decode("latin-1"), keep_blank_values=True)
        return fields.get("model", [None])[-1]
    if kind_only.startswith("multipart/"):
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
        found = None
        for part in message.iter_parts():
            if part.get_param("name", header="content-disposition") == "model" and part.get_filename() is None:
                found = (part.get_payload(decode=True) or b"").decode("utf-8", "replace")
        return found
    value = json.loads(body)
    return value.get("model") if isinstance(value, dict) else None


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] in ("/model", "/json"):
        kind = "" if scope["path"] == "/json" else dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        try:
            answer = model(kind, body)
        except Exception:
            answer = None
        answer = answer if isinstance(answer, str) else "!"
    else:
        answer = handler(scope["path"])
    answer = answer.encode("utf-8", "replace")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(answer)).encode())]})
    await send({"type": "http.response.body", "body": answer})
