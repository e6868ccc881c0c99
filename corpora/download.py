"""Fetch one file over HTTP: resumed where it was cut off, tried again, its length and sum checked.
Entry points: fetch(url, path, digest, access), and the flags, which access(args, prefix_flag) turns into how to ask.
"""

import os
import re
import time
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    OpenerDirector,
    Request,
    build_opener,
)

from corpora.disk import CHUNK, Progress, full_disk_named, kind_of_sum, require_space, sum_of

# A URLError, a reset, a time-out and a name that cannot be resolved are all OSError.
NETWORK = (OSError, HTTPException)
BUSY = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_SECONDS = 60.0

PASSWORD_VARIABLE = "VOXLAB_PASSWORD"
CREDENTIALS = (
    "VoxCeleb is handed out on request: fill in the form on its site (www.robots.ox.ac.uk/~vgg/data/voxceleb, or "
    "mm.kaist.ac.kr/datasets/voxceleb); you are sent a user name and password, or a key. Files you already have are "
    "checked and used if you put them, under their names, into --save_path."
)


class Access(NamedTuple):
    """How a host is asked: the flag that moves its URL, tries, credentials, an access key for the query string."""

    prefix_flag: str
    retries: int
    wait_seconds: float
    timeout_seconds: float
    user: str = ""
    password: str = ""
    key: str = ""


class Interrupted(Exception):
    """A transfer ended early for a reason that may pass."""


def add_arguments(parser):
    """Add the flags of downloads."""
    group = parser.add_argument_group("downloads", CREDENTIALS)
    group.add_argument("--user", default="", help="user name for VoxCeleb")
    group.add_argument("--password", default="", help=f"password; better given as the variable {PASSWORD_VARIABLE}")
    group.add_argument("--access_key", default="", metavar="KEY", help="appended to each VoxCeleb URL as key=KEY")
    group.add_argument(
        "--url_prefix",
        default="https://thor.robots.ox.ac.uk/voxceleb/vox1a/",
        help="where VoxCeleb's archives lie; {name} in it is replaced by the file's name",
    )
    group.add_argument(
        "--openslr_prefix",
        default="https://www.openslr.org/resources/",
        help="where noise, rooms and LibriSpeech lie",
    )
    group.add_argument(
        "--lists_prefix", default="https://mm.kaist.ac.kr/datasets/voxceleb/meta/", help="where --download_lists looks"
    )
    group.add_argument("--retries", type=int, default=5, help="in a row without a byte more, before giving up")
    group.add_argument("--retry_seconds", type=float, default=2.0, help="before the first retry; doubled at each")
    group.add_argument("--timeout_seconds", type=float, default=60.0, help="without an answer")


def access(args, prefix_flag: str, credentials: bool = True) -> Access:
    """Return how a host is asked, with or without the user's credentials; the password may be in the environment.

    Raises:
        ValueError: a user without a password, or a number out of range.
    """
    for name in ("retries", "retry_seconds"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} {getattr(args, name)}: must not be negative")
    if args.timeout_seconds <= 0:
        raise ValueError(f"--timeout_seconds {args.timeout_seconds}: must be positive")
    tries = Access(prefix_flag, args.retries, args.retry_seconds, args.timeout_seconds)
    if not credentials:
        return tries
    password = args.password or os.environ.get(PASSWORD_VARIABLE, "")
    if args.user and not password:
        raise ValueError(f"--user {args.user}: give --password too, or set {PASSWORD_VARIABLE}")
    return tries._replace(user=args.user, password=password, key=args.access_key)


def fetch(url: str, path: Path, digest: str, access: Access) -> Progress:
    """Fetch `url` into `path`, or check the sum of a file that is there: an MD5 or SHA-256, an empty one not at all.

    What has come lies in `path`.part until it is whole and right; the next run goes on from there.

    Raises:
        ValueError: the sum is another one, or a web page came instead of a file.
        OSError: refused, not found, no network, wrong length, or no space left; the message says what to do.
    """
    if path.is_file():
        found = (yield from sum_of(path, kind_of_sum(digest))) if digest else digest
        if found != digest:
            raise ValueError(
                f"{path}: its {kind_of_sum(digest)} is {found}, the list says {digest}: delete it to download it "
                "again, or put the right file there"
            )
        return
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{shown(url)}: {access.prefix_flag} must begin with http:// or https://")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield from _insist(with_key(url, access.key), part, access)
    found = (yield from sum_of(part, kind_of_sum(digest))) if digest else digest
    if found != digest:
        # Going on from a part that is wrong somewhere would never end well.
        part.unlink()
        raise ValueError(
            f"{shown(url)}: came with {kind_of_sum(digest)} {found}, the list says {digest}; it was deleted: run "
            f"again, and if that does not help, put a right copy at {path} or look for another {access.prefix_flag}"
        )
    part.replace(path)


def with_key(url: str, key: str) -> str:
    """Append an access key to the query string of a URL."""
    return f"{url}{'&' if '?' in url else '?'}key={quote(key)}" if key else url


def shown(url: str) -> str:
    """Return a URL as it may be printed: without keys and passwords."""
    return re.sub(r"([?&]key=)[^&]*", r"\1...", re.sub(r"//[^/@]*@", "//", url))


def _insist(url, part, access) -> Progress:
    """Receive until all is there; give up after so many tries in a row without a byte more than ever before."""
    opener = _opener(url, access)
    failures, furthest = 0, _size(part)
    while True:
        try:
            yield from _receive(opener, url, part, access)
            return
        except Interrupted as error:
            reason = error
        if _size(part) > furthest:
            failures, furthest = 0, _size(part)
        if failures == access.retries:
            raise OSError(
                f"{shown(url)}: {reason} (given up after {failures} retries): check the network, the proxy and "
                f"{access.prefix_flag}; the {_size(part)} bytes that came are kept and the same command goes on from "
                f"there; or put a copy at {part.with_suffix('')}"
            )
        wait = min(access.wait_seconds * 2**failures, LONGEST_WAIT_SECONDS)
        failures += 1
        yield f"again in {wait:.0f} s: {reason}", _size(part), None
        time.sleep(wait)


def _opener(url, access) -> OpenerDirector:
    """Return an opener that gives the credentials to the URL's own host when it asks, and to no other."""
    passwords = HTTPPasswordMgrWithDefaultRealm()
    if access.user:
        passwords.add_password(None, urlsplit(url).netloc, access.user, access.password)
    return build_opener(HTTPBasicAuthHandler(passwords))


def _receive(opener, url, part, access) -> Progress:
    """Append to `part` what one answer brings; begin anew where the server does not go on from its end."""
    have = _size(part)
    headers = {"User-Agent": "voxlab", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = opener.open(Request(url, headers=headers), timeout=access.timeout_seconds)
    except HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            raise _refusal(error, url, part, access) from None
    except NETWORK as error:
        raise Interrupted(f"no answer ({getattr(error, 'reason', error) or type(error).__name__})") from None
    with response:
        if response.headers.get_content_type() == "text/html":
            raise ValueError(
                f"{shown(url)}: the server answered with a web page and no file: look at it in a browser, and see "
                f"{access.prefix_flag}, --user and --access_key"
            )
        start, total = _range(response, have, part)
        if total is not None:
            require_space(part.parent, total - start, f"the rest of {part.with_suffix('').name}")
        with full_disk_named(part), open(part, "ab") as file:
            if start < have:
                file.truncate(start)
            done = start
            while data := _read(response):
                file.write(data)
                done += len(data)
                yield "downloading", done, total
    if total is not None and done != total:
        raise Interrupted(f"wrong length: {done} bytes came, {total} were announced")


def _read(response):
    try:
        return response.read1(CHUNK)
    except NETWORK as error:
        raise Interrupted(f"the connection broke ({error or type(error).__name__})") from None


def _range(response, have, part):
    """Return (first byte that the answer brings, length of the whole file or None)."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match and int(match[1]) == have:
            return have, None if match[2] == "*" else int(match[2])
        part.unlink(missing_ok=True)
        raise Interrupted(f"the server sent another part than asked for ({response.headers.get('Content-Range')})")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _refusal(error, url, part, access) -> Exception:
    """Return what to raise for an answer that is an HTTP error."""
    answer = f"{shown(url)}: the server answered {error.code} {error.reason}"
    copy = f"put a copy at {part.with_suffix('')}"
    if error.code == 416:
        part.unlink(missing_ok=True)
        return Interrupted("the server has less of the file than is here; beginning anew")
    if error.code in BUSY:
        return Interrupted(f"the server answered {error.code} {error.reason}")
    if error.code in (401, 403):
        return OSError(
            f"{answer}: it wants other credentials: --user and --password, or --access_key (--help says where from); "
            f"or {copy}"
        )
    if error.code in (404, 410):
        return OSError(f"{answer}: files move; give their new place as {access.prefix_flag}, or {copy}")
    return OSError(f"{answer}: see {access.prefix_flag}, or {copy}")


def _size(path):
    return path.stat().st_size if path.exists() else 0
