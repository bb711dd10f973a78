"""Shows each operation what its description says that it wants: a token, a server's credential, or a ticket.

Set by scripts/schemathesis: HOLDFAST_URL (the name server), HOLDFAST_TOKEN, HOLDFAST_STORAGE (a storage server),
HOLDFAST_STORAGE_IDENTITY (who that is), HOLDFAST_SECRET_FILE, HOLDFAST_SIGN (the program examples/sign).
"""

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import requests
import schemathesis

NAME_SERVER = os.environ["HOLDFAST_URL"]
STORAGE = os.environ["HOLDFAST_STORAGE"]
TOKEN = f"Bearer {os.environ['HOLDFAST_TOKEN']}"
# How long a ticket to read is shown again.
READ_TICKET_SECONDS = 20


def ask(url, authorization):
    request = urllib.request.Request(url, headers={"Authorization": authorization})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class Signer:
    """The program that signs; the only place that knows what a server's credential is made of."""

    def __init__(self, cluster, epoch, *role):
        command = [os.environ["HOLDFAST_SIGN"], os.environ["HOLDFAST_SECRET_FILE"], cluster, str(epoch), *map(str, role)]
        self.lock = threading.Lock()
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def credential(self, method, path):
        with self.lock:
            self.program.stdin.write(f"{method} {path}\n")
            self.program.stdin.flush()
            return self.program.stdout.readline().strip()


def signers():
    told = ask(f"{NAME_SERVER}/status", TOKEN)
    cluster, epoch = told["cluster"], told["epoch"]
    # A name server's credential has the present term: a newer one would shut the real one out.
    identity = os.environ["HOLDFAST_STORAGE_IDENTITY"]
    stranger = Signer(cluster, epoch, "name-server", 0, identity)
    status = ask(f"{STORAGE}/status", stranger.credential("GET", "/status"))
    return {
        "storage": Signer(cluster, epoch, "storage"),
        "name-server": Signer(cluster, status["epoch"], "name-server", status["term"], identity),
    }


SIGNERS = signers()
read_ticket = (0.0, "")


def ticket(method):
    """A good ticket for a transfer."""
    global read_ticket
    if method in ("GET", "HEAD"):
        if time.monotonic() - read_ticket[0] > READ_TICKET_SECONDS:
            entry = ask(f"{NAME_SERVER}/api/v1/file?path=/seed", TOKEN)
            url = next(copy["url"] for copy in entry["replicas"] if copy["url"].startswith(STORAGE))
            text = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["ticket"][0]
            read_ticket = (time.monotonic(), text)
        return read_ticket[1]
    placed = ask(f"{NAME_SERVER}/api/v1/available?path=/fuzz-{time.monotonic_ns()}", TOKEN)
    return placed["placements"][0]["ticket"]


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


def target(case):
    """Path and query of a request, as they will be sent: a credential is for nothing else."""
    sent = case.as_transport_kwargs()
    return requests.Request(case.method, sent["url"], params=sent.get("params")).prepare().path_url


@schemathesis.auth(refresh_interval=None)
class Shown:
    def get(self, case, context):
        operation = case.operation
        for scheme in (next(iter(one)) for one in operation.definition.raw.get("security") or []):
            if scheme == "token":
                return ("Authorization", TOKEN)
            if scheme == "server":
                is_name_server = operation.path.startswith("/api/v1/")
                signer = SIGNERS["storage" if is_name_server else "name-server"]
                return ("Authorization", signer.credential(case.method.upper(), target(case)))
            if scheme == "ticket":
                return ("ticket", ticket(case.method.upper()))
        return None

    def set(self, case, data, context):
        if data is None:
            return
        name, value = data
        if name == "ticket":
            case.query = dict(case.query or {}, ticket=value)
        else:
            case.headers = dict(case.headers or {}, Authorization=value)
