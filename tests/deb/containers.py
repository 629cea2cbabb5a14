# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries out what docker/Dockerfile and docker/compose.yml say, without a container engine, and lights a lamp.

Run by docker/test-image.sh as root of a fresh Debian, in two steps, by Debian's Python alone::

    python3 -m tests.deb.containers build /work               # the Dockerfile; fetches packages
    unshare --net -- python3 -m tests.deb.containers run /work single.json

WORK has `Dockerfile`, `dist/` and `*.json`, which is what Docker's own reader (compose-go) made of the compose files.
Each service has a network namespace with an address of its own on one bridge, and its name in /etc/hosts; it has a
mount namespace for its volumes and /run/kamailio. The images of NSQ and PostgreSQL are stood in for by their programs.
A key of a service that is not known here fails. Published ports, restarts and how often health is checked have no
part in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.until import until

IMAGE = Path("/image.json")
VOLUMES = Path("/volumes")
NETWORK = "172.30.0"
PASSWORD = "a-password"
#: What Docker gives a container besides.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEADLINE_S = 90.0
EVENT = (
    '{"Event-Category": "presence", "Event-Name": "update", "Event-Package": "dialog", "Call-ID": "c-1",'
    ' "From": "sip:alice@example.com", "To": "sip:bob@example.com", "State": "STATE"}'
)


class Unknown(Exception):
    """A file says what this does not carry out."""


# --- the Dockerfile


def build(work: Path) -> None:
    """Carry out the steps of the Dockerfile in this root; what a container starts with is left in IMAGE."""
    text = re.sub(r"^\s*#.*\n", "", (work / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    steps = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    arguments: dict[str, str] = {}
    image: dict[str, Any] = {"user": "root"}
    for word, rest in steps:
        print(f"{word} {rest}", flush=True)
        _STEPS[word](work, rest, arguments, image)
    IMAGE.write_text(json.dumps(image), encoding="utf-8")


def _arg(_work: Path, rest: str, arguments: dict[str, str], _image: dict[str, Any]) -> None:
    name, _, value = rest.partition("=")
    arguments.setdefault(name, value)


def _from(_work: Path, rest: str, arguments: dict[str, str], _image: dict[str, Any]) -> None:
    here = re.search(r'^VERSION_ID="(\d+)"', Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    assert here is not None
    assert rest.replace("${DEBIAN}", arguments["DEBIAN"]) == f"debian:{here[1]}-slim", "another release than this root"


def _copy(work: Path, rest: str, arguments: dict[str, str], _image: dict[str, Any]) -> None:
    source, target = rest.replace("${DEBIAN}", arguments["DEBIAN"]).split()
    found = sorted(work.glob(source))
    assert found, f"COPY: there is no {source}"
    subprocess.run(["cp", *map(str, found), target], check=True)


def _run(_work: Path, rest: str, _arguments: dict[str, str], image: dict[str, Any]) -> None:
    assert image["user"] == "root"
    subprocess.run(["sh", "-c", rest], check=True, stdout=subprocess.DEVNULL, timeout=900)


def _keep(name: str, read: Callable[[str], Any]) -> Callable[..., None]:
    def step(_work: Path, rest: str, _arguments: dict[str, str], image: dict[str, Any]) -> None:
        image[name] = read(rest)

    return step


_STEPS: dict[str, Callable[[Path, str, dict[str, str], dict[str, Any]], None]] = {
    "ARG": _arg,
    "FROM": _from,
    "COPY": _copy,
    "RUN": _run,
    "USER": _keep("user", str),
    "VOLUME": _keep("volume", str),
    "EXPOSE": _keep("expose", str.split),
    "ENTRYPOINT": _keep("entrypoint", json.loads),
    "CMD": _keep("command", json.loads),
}


# --- the services


@dataclass(slots=True, kw_only=True)
class Service:
    """A service of a compose file, and the process that it became.

    Attributes:
        name: its name, which is its host name for the others.
        said: what the file says of it.
        address: its address on the bridge.
        process: its main process, once it was started.
    """

    name: str
    said: dict[str, Any]
    address: str
    process: subprocess.Popen[bytes] | None = field(default=None)

    def environment(self) -> dict[str, str]:
        """Return its variables, which a file may write as a list or as a mapping."""
        given = self.said.get("environment") or {}
        pairs = given.items() if isinstance(given, dict) else (entry.split("=", 1) for entry in given)
        return {name: filled(str(value)) for name, value in pairs}

    def inside(self, user: str, command: list[str], **environment: str) -> list[str]:
        """Return the command line that runs a command in the service's namespaces."""
        mounts = [f"mount --bind {VOLUMES}/{each['source']} {each['target']}" for each in self.said.get("volumes", ())]
        script = " && ".join(
            [
                f"hostname {shlex.quote(self.said.get('hostname', self.name))}",
                f"mount --bind {VOLUMES}/run-of-{self.name} /run/kamailio",
                *mounts,
                "cd /",
                f'exec setpriv --reuid={user} --regid=$(id --group {user}) --init-groups -- "$@"',
            ]
        )
        variables = {"PATH": SYSTEM_PATH, **self.environment(), **environment}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        namespaces = ["ip", "netns", "exec", self.name, "unshare", "--uts", "--mount", "--"]
        return [*namespaces, "env", "--ignore-environment", *pairs, "sh", "-ec", script, "sh", *command]

    def start(self, user: str, command: list[str], **environment: str) -> None:
        """Start its main process, whose output goes to /NAME.log."""
        with Path(f"/{self.name}.log").open("ab") as log:
            line = self.inside(user, command, **environment)
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def checks(self) -> bool:
        """Tell whether its health check succeeds, or where it has none, whether it runs."""
        assert self.process is not None
        check = self.said.get("healthcheck", {}).get("test")
        if check is None:
            return self.process.poll() is None
        kind, *command = check
        if kind != "CMD":
            raise Unknown(f"{self.name}: a health check of the kind {kind}")
        user = json.loads(IMAGE.read_text())["user"] if "build" in self.said else "postgres"
        done = subprocess.run(self.inside(user, command), capture_output=True, check=False, timeout=30)
        return done.returncode == 0


def filled(text: str) -> str:
    """Put values in place of `${NAME:-default}` and `${NAME:?message}`, as Docker does with docker/.env."""
    known = {"POSTGRES_PASSWORD": PASSWORD}

    def value(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if name not in known and default is None:
            raise Unknown(f"{name} has no value, and none is written into .env")
        return known.get(name, default or "")

    return re.sub(r"\$\{(\w+)(?::\?[^}]*|:-([^}]*))\}", value, text)


def _start_nsq(service: Service) -> None:
    program, *options = service.said["command"]
    service.start("nobody", [f"/usr/local/bin{program}", *options])


#: What the image's entry point does: a cluster of a user's, whose password the network must say.
POSTGRES = """
bin=$(echo /usr/lib/postgresql/*/bin)
printf %s "$POSTGRES_PASSWORD" >/tmp/password-$POSTGRES_NAME
[ -e "$1/PG_VERSION" ] || $bin/initdb --pgdata="$1" --username="$POSTGRES_USER" --pwfile=/tmp/password-$POSTGRES_NAME \
    --auth-host=scram-sha-256 --auth-local=trust
echo 'host all all all scram-sha-256' >>"$1/pg_hba.conf"
$bin/pg_ctl --wait --pgdata="$1" --options="-k /tmp/sockets-$POSTGRES_NAME -h ''" start >/dev/null
$bin/createdb --host=/tmp/sockets-$POSTGRES_NAME --username="$POSTGRES_USER" "$POSTGRES_DB" || true
$bin/pg_ctl --wait --pgdata="$1" stop >/dev/null
exec $bin/postgres -D "$1" -k /tmp/sockets-$POSTGRES_NAME -h '*'
"""


def _start_postgres(service: Service) -> None:
    sockets = Path(f"/tmp/sockets-{service.name}")
    sockets.mkdir()
    subprocess.run(["chown", "postgres:", str(sockets)], check=True)
    data = service.said["volumes"][0]["target"]
    service.start("postgres", ["sh", "-c", POSTGRES, "sh", data], POSTGRES_NAME=service.name)


def _start_ours(service: Service) -> None:
    image = json.loads(IMAGE.read_text(encoding="utf-8"))
    entrypoint = service.said.get("entrypoint") or image["entrypoint"]
    command = service.said.get("command") or image["command"]
    service.start(image["user"], [filled(word) for word in (*entrypoint, *command)])


#: Image to what it does, without its version; and whose its volumes are.
IMAGES: dict[str, tuple[Callable[[Service], None], str]] = {
    "nsqio/nsq": (_start_nsq, "nobody"),
    "postgres": (_start_postgres, "postgres"),
    "kemi-nsq": (_start_ours, "kamailio"),
}
KNOWN = {
    *("build", "command", "depends_on", "entrypoint", "environment", "healthcheck", "hostname", "image", "networks"),
    *("ports", "restart", "volumes"),
}


# --- all of them


def up(file: Path) -> dict[str, Service]:
    """Make the network, start all services in their order, and wait until each is well."""
    said = json.loads(file.read_text(encoding="utf-8"))["services"]
    services = {
        name: Service(name=name, said=each, address=f"{NETWORK}.{number}")
        for number, (name, each) in enumerate(sorted(said.items()), start=10)
    }
    _make_network(services)
    waiting = dict(services)

    def all_are_started() -> bool:
        for service in [each for each in waiting.values() if all(_is_met(services, *need) for need in _needs(each))]:
            print(f"starting {service.name}", flush=True)
            _start(service)
            del waiting[service.name]
        return not waiting

    until(all_are_started, timeout_s=DEADLINE_S, what="the start of every service")
    for service in services.values():
        if "restart" in service.said or "healthcheck" in service.said or "build" not in service.said:
            until(service.checks, timeout_s=DEADLINE_S, what=f"{service.name} to be well")
    return services


def _needs(service: Service) -> list[tuple[str, str]]:
    return [(name, each["condition"]) for name, each in service.said.get("depends_on", {}).items()]


def _is_met(services: dict[str, Service], name: str, condition: str) -> bool:
    service = services[name]
    if service.process is None:
        return False
    if condition == "service_completed_successfully":
        code = service.process.poll()
        assert not code, f"{name} ended with {code}"
        return code == 0
    return condition == "service_started" or service.checks()


def _start(service: Service) -> None:
    if unknown := set(service.said) - KNOWN:
        raise Unknown(f"{service.name}: {', '.join(sorted(unknown))}")
    start, owner = IMAGES[service.said["image"].partition(":")[0]]
    volumes = [each["source"] for each in service.said.get("volumes", ())]
    for name in (f"run-of-{service.name}", *volumes):
        user = "kamailio" if name.startswith("run-of-") else owner
        subprocess.run(["install", "--directory", f"--owner={user}", "--mode=0700", f"{VOLUMES}/{name}"], check=True)
    for each in service.said.get("volumes", ()):
        Path(each["target"]).mkdir(parents=True, exist_ok=True)
    start(service)


def _make_network(services: dict[str, Service]) -> None:
    commands = [
        "ip link set lo up",
        "ip link add name compose type bridge",
        f"ip address add {NETWORK}.1/24 dev compose",
        "ip link set compose up",
    ]
    for number, service in enumerate(services.values()):
        commands += [
            f"ip netns add {service.name}",
            f"ip link add name host{number} type veth peer name eth0 netns {service.name}",
            f"ip link set host{number} master compose up",
            f"ip -netns {service.name} link set lo up",
            f"ip -netns {service.name} address add {service.address}/24 dev eth0",
            f"ip -netns {service.name} link set eth0 up",
        ]
    for command in commands:
        subprocess.run(command.split(), check=True)
    with Path("/etc/hosts").open("a", encoding="utf-8") as hosts:
        hosts.writelines(f"{service.address} {service.name}\n" for service in services.values())


# --- a lamp


def run(work: Path, file: str) -> None:
    """Start a site, let a phone with an account watch alice at each Kamailio, and publish a call of hers."""
    subprocess.run(
        ["rm", "--recursive", "--force", str(VOLUMES), "/run/netns", *map(str, Path("/").glob("*.log"))], check=True
    )
    services = up(work / file)
    kamailios = [name for name, each in services.items() if "restart" in each.said]
    for name in kamailios:
        database = services[name].environment()["NSQ_DB_URL"]
        account = "INSERT INTO subscriber (username, domain, password) VALUES ('phone', 'example.com', 'secret');"
        subprocess.run(["psql", "--quiet", database], input=account, text=True, check=True)
    nsqds = [name for name, each in services.items() if each.said.get("command", [""])[0] == "/nsqd"]
    for nsqd in nsqds:
        phones = [_phone(work, name) for name in kamailios]
        for name in kamailios:
            until(Path(f"/{name}.watching").exists, timeout_s=DEADLINE_S, what=f"a NOTIFY without a call at {name}")
        publish(nsqd, "confirmed")
        for name, phone in zip(kamailios, phones, strict=True):
            assert phone.wait(timeout=60) == 0, (
                f"the phone at {name} saw no lamp:\n{Path(f'/{name}.phone').read_text()}"
            )
            print(f"{nsqd}: a lamp at {name}", flush=True)
            Path(f"/{name}.watching").unlink()
        publish(nsqd, "terminated")
    for name in kamailios:
        wrong = re.findall(r".*(?:WARNING|ERROR|CRITICAL):.*", Path(f"/{name}.log").read_text(encoding="utf-8"))
        assert not wrong, "\n".join(wrong)


def publish(nsqd: str, state: str) -> None:
    """Publish a state of one call, by the command of the package."""
    event = EVENT.replace("STATE", state).replace("c-1", f"c-{nsqd}")
    subprocess.run(["kemi-nsq", "publish", "--nsqd", f"{nsqd}:4151", "kamailio", event], check=True)


def _phone(work: Path, kamailio: str) -> subprocess.Popen[bytes]:
    scenario = (work / "lamp.xml").read_text(encoding="utf-8").replace("WATCHING", f"/{kamailio}.watching")
    file = Path(f"/{kamailio}.xml")
    file.write_text(scenario, encoding="utf-8")
    command = ["sipp", f"{kamailio}:5060", "-sf", str(file), "-i", f"{NETWORK}.1", "-m", "1", "-timeout", "50s"]
    command += ["-nostdin", "-trace_err", "-error_file", f"/{kamailio}.sipp"]
    with Path(f"/{kamailio}.phone").open("wb") as log:
        environment = {"TERM": "dumb", "PATH": os.environ["PATH"]}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def main() -> None:
    """Build the image, or run a site; what the services wrote is printed where it goes wrong."""
    step, work, *rest = sys.argv[1:]
    if step == "build":
        build(Path(work))
        return
    try:
        run(Path(work), *rest)
    except BaseException:
        for log in sorted(Path("/").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
