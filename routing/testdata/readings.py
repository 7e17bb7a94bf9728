"""Reads requests as servers in Python read them, one a line, and prints for each
what `num(body.n, 1) * megapixels(body.size, 1)` may be to them: a JSON object of
numbers by reader. A line holds the content type, the content encoding and the
body, each in base64 with a dash before it. Readers that are not installed are
left out.
"""

import base64
import email
import email.policy
import gzip
import io
import json
import logging
import math
import re
import sys
import urllib.parse
import warnings
import zlib

warnings.simplefilter("ignore")
logging.disable()
sys.set_int_max_str_digits(0) if hasattr(sys, "set_int_max_str_digits") else None

try:
    import cgi
except ImportError:
    cgi = None
try:
    import python_multipart as multipart
except ImportError:
    try:
        import multipart
        multipart.FormParser
    except (ImportError, AttributeError):
        multipart = None
try:
    import werkzeug.formparser as werkzeug
except ImportError:
    werkzeug = None
try:
    import django.conf
    import django.http.multipartparser
    django.conf.settings.configure(USE_I18N=False)
except ImportError:
    django = None
try:
    import brotli
except ImportError:
    brotli = None


def text_of(value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    return value


def attempt(convert, value):
    try:
        return convert(value)
    except OverflowError:
        return math.inf
    except Exception:
        return None


def leading(value):
    """What parseInt and atoi take."""
    found = re.match(r"\s*[+-]?\d+", value)
    return found and int(found.group())


def num(value, default):
    """The most that servers take a value for. What is less than 1 to one that
    wants a whole number, or nothing to it, is as good as missing."""
    if isinstance(value, (int, float)):
        read = [attempt(float, value), attempt(int, value)]
    elif isinstance(value, str):
        read = [attempt(int, value), attempt(float, value), attempt(leading, value)]
    else:
        read = []
    if not read or not read[0] or not read[1] or read[1] < 1:
        read.append(default)
    return max(attempt(float, r) for r in read if r is not None and r >= 0)


def megapixels(value, default):
    read = [default]
    if isinstance(value, str):
        plain = re.fullmatch(r"(\d+)x(\d+)", value)
        product = plain and int(plain.group(1)) * int(plain.group(2)) / 1e6
        read = [product] if product else [default]
        for pattern in r"(\d+)x(\d+)", r"(\d+)\s*[xX×*]\s*(\d+)":
            found = re.search(pattern, value)
            read.append(found and int(found.group(1)) * int(found.group(2)) / 1e6)
        read.append(attempt(lambda v: math.prod(float(p) for p in v.lower().split("x")) / 1e6, value))
    elif isinstance(value, list) and len(value) == 2:
        read.append(attempt(lambda v: float(v[0]) * float(v[1]) / 1e6, value))
    return float(max(r for r in read if r is not None and r >= 0))


def demand(fields):
    if not isinstance(fields, dict):
        return None
    n, size = text_of(fields.get("n")), text_of(fields.get("size"))
    product = num(n, 1) * megapixels(size, 1)
    return None if math.isnan(product) else product


def first(pairs):
    fields = {}
    for key, value in pairs:
        fields.setdefault(key, value)
    return fields


def folded(pairs):
    return {key.casefold(): value for key, value in pairs}


def mangled(pairs):
    """As in PHP, and where letters do not matter."""
    return {key.lstrip().partition("\0")[0].partition("[")[0].strip().casefold(): value for key, value in pairs}


def prefix(text):
    return json.JSONDecoder().raw_decode(text.lstrip())[0]


def json_readers(body, charset):
    yield "json.loads", lambda: json.loads(body)
    yield "json, the first key", lambda: json.loads(body, object_pairs_hook=first)
    yield "json, keys in any letters", lambda: json.loads(body, object_pairs_hook=folded)
    for errors in "ignore", "replace", "surrogatepass":
        yield "json, " + errors, lambda: json.loads(body.decode("utf-8", errors), strict=False)
    yield "json, the beginning", lambda: prefix(body.decode("utf-8-sig", "replace"))
    if charset:
        yield "json in its charset", lambda: json.loads(body.decode(charset))


def url_readers(body):
    for encoding in "utf-8", "latin-1":
        for separators in "&", "&;":
            text = lambda: re.sub("[" + separators + "]", "&", body.decode(encoding, "replace"))
            pairs = lambda: urllib.parse.parse_qsl(text(), keep_blank_values=True)
            yield "parse_qsl, the first " + separators, lambda: first(pairs())
            yield "parse_qsl, the last " + separators, lambda: dict(pairs())
            yield "parse_qsl, mangled " + separators, lambda: mangled(pairs())


def from_email(content_type, body, policy):
    head = b"Content-Type: " + content_type.encode("utf-8", "surrogateescape") + b"\r\n\r\n"
    pairs = []
    for part in email.message_from_bytes(head + body, policy=policy).walk():
        name = part.get_param("name", header="content-disposition")
        if part.is_multipart() or name is None or part.get_filename():
            continue
        pairs.append((email.utils.collapse_rfc2231_value(name), part.get_payload(decode=True)))
    return pairs


def from_cgi(content_type, body):
    environ = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    form = cgi.FieldStorage(fp=io.BytesIO(body), environ=environ, keep_blank_values=True)
    return [(f.name, f.value) for f in form.list or [] if not f.filename]


def from_multipart(content_type, body):
    pairs = []
    headers = {"Content-Type": content_type.encode("utf-8", "surrogateescape"), "Content-Length": str(len(body)).encode()}
    multipart.parse_form(headers, io.BytesIO(body), lambda f: pairs.append((text_of(f.field_name), f.value)), lambda f: None)
    return pairs


def from_werkzeug(content_type, body):
    environ = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    return list(werkzeug.parse_form_data(environ, silent=False)[1].items(multi=True))


def from_django(content_type, body):
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    post, _ = django.http.multipartparser.MultiPartParser(meta, io.BytesIO(body), []).parse()
    return [(key, value) for key, values in post.lists() for value in values]


def by_eye(content_type, body):
    """Cuts at every boundary and looks for anything like a name."""
    boundary = re.search(r"boundary=\"?([^\";, ]+)", content_type, re.I).group(1).encode("utf-8", "surrogateescape")
    pairs = []
    for part in body.split(b"--" + boundary):
        head, _, value = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n").strip(b"\n").partition(b"\n\n")
        name = re.search(rb"\bname=[\"']?([^\"';\n]*)", head, re.I)
        if name and b"filename" not in head.lower():
            pairs.append((text_of(name.group(1)), value.rstrip(b"\n")))
    return pairs


def form_readers(content_type, body):
    readers = {"by eye": by_eye}
    for name, policy in (("email", email.policy.compat32), ("email, new", email.policy.HTTP)):
        readers[name] = lambda t, b, policy=policy: from_email(t, b, policy)
    if cgi:
        readers["cgi"] = from_cgi
    if multipart:
        readers["python-multipart"] = from_multipart
    if werkzeug:
        readers["werkzeug"] = from_werkzeug
    if django:
        readers["django"] = from_django
    for name, reader in readers.items():
        yield name + ", the first", lambda: first(reader(content_type, body))
        yield name + ", the last", lambda: dict(reader(content_type, body))
        yield name + ", mangled", lambda: mangled(reader(content_type, body))


def decoded(body, encodings):
    for encoding in reversed([e.strip().lower() for e in encodings.split(",")]):
        if encoding in ("gzip", "x-gzip"):
            body = gzip.decompress(body)
        elif encoding == "deflate":
            try:
                body = zlib.decompress(body)
            except zlib.error:
                body = zlib.decompress(body, -zlib.MAX_WBITS)
        elif encoding == "br" and brotli:
            body = brotli.decompress(body)
    return body


def readings(content_type, encodings, body):
    bodies = [("", body)]
    plain = attempt(lambda b: decoded(b, encodings), body)
    if plain is not None and plain != body:
        bodies.append((encodings + ": ", plain))
    charset = re.search(r"charset=\"?([^\";, ]+)", content_type, re.I)
    for how, body in bodies:
        for source in json_readers(body, charset and charset.group(1)), url_readers(body) if "urlencoded" in content_type.lower() else (), form_readers(content_type, body) if "multipart" in content_type.lower() else ():
            for name, read in source:
                value = attempt(lambda _: demand(read()), None)
                if value is not None:
                    yield how + name, "inf" if math.isinf(value) else value


if __name__ == "__main__":
    for line in sys.stdin:
        content_type, encodings, body = (base64.b64decode(word[1:]) for word in line.split())
        found = dict(readings(content_type.decode("utf-8", "surrogateescape"), encodings.decode("utf-8", "replace"), body))
        print(json.dumps(found), flush=True)
