"""kubectl and helm, run with a deadline, their output in the error; whichever KUBECONFIG says."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]

POLL_S = 0.5


class CommandError(AssertionError):
    """A command failed or did not end in time; the message has its output."""


def run(*command: str, stdin: str | None = None, within_s: float = 60, check: bool = True) -> str:
    """Run it and return what it said on stdout."""
    shown = " ".join(part if len(part) < 200 else f"{part[:200]}..." for part in command)
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=within_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise CommandError(f"{shown}: no end within {within_s} s\n{exc.stderr}") from exc
    if check and done.returncode != 0:
        raise CommandError(f"{shown}: {done.returncode}\n{done.stderr}\n{done.stdout}")
    return done.stdout


def kubectl(*args: str, stdin: str | None = None, within_s: float = 60, check: bool = True) -> str:
    return run("kubectl", *args, stdin=stdin, within_s=within_s, check=check)


def helm(*args: str, within_s: float = 300, check: bool = True) -> str:
    return run("helm", *args, within_s=within_s, check=check)


def apply(*objects: Object) -> None:
    """Create or change the objects."""
    listing = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl("apply", "-f", "-", stdin=json.dumps(listing))


def get(kind: str, name: str, namespace: str = "default") -> Object:
    return json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))


def find(kind: str, *args: str) -> list[Object]:
    return json.loads(kubectl("get", kind, *args, "-o", "json"))["items"]


def until(ask: Callable[[], Any], *, what: str, within_s: float = 60) -> Any:
    """Ask again and again until the answer is neither None, False nor empty."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise CommandError(f"{what}: not within {within_s} s; last answer {answer!r}")
        time.sleep(POLL_S)


def wait_phase(
    kind: str, names: list[str], wanted: str, namespace: str = "default", *, within_s: float = 60
) -> None:
    kubectl(
        "wait", kind, *names, "-n", namespace, f"--for=jsonpath={{.status.phase}}={wanted}",
        f"--timeout={within_s:.0f}s", within_s=within_s + 10,
    )  # fmt: skip


def phase(namespace: str, pod: str) -> str:
    return kubectl("get", "pod", pod, "-n", namespace, "-o", "jsonpath={.status.phase}")


def wait_ready(namespace: str, what: str, *, within_s: float = 90) -> None:
    """Wait for a pod (`pod/x`) or what owns pods (`-l app=x`) to be Ready."""
    kubectl(
        "wait", "-n", namespace, "--for=condition=Ready", *what.split(),
        f"--timeout={within_s:.0f}s", within_s=within_s + 10,
    )  # fmt: skip


def wait_ended(namespace: str, pod: str, *, within_s: float = 90) -> str:
    """Wait until the pod has ended and return its log.

    Raises:
        CommandError: it failed, or goes on; the message has its log.

    """

    def ended() -> str | None:
        now = phase(namespace, pod)
        return now if now in {"Succeeded", "Failed"} else None

    how = until(ended, what=f"the end of pod {namespace}/{pod}", within_s=within_s)
    log = logs(namespace, pod)
    if how == "Failed":
        raise CommandError(f"pod {namespace}/{pod} failed:\n{log}")
    return log


def logs(namespace: str, pod: str, *args: str) -> str:
    return kubectl("logs", "-n", namespace, pod, *args, check=False)


def execute(
    namespace: str, pod: str, script: str, *, within_s: float = 60, check: bool = True
) -> str:
    """Run a shell script in the pod's first container and return what it said."""
    return kubectl(
        "exec", "-n", namespace, pod, "--", "sh", "-c", script, within_s=within_s, check=check
    )


def fails(namespace: str, pod: str, script: str, *, within_s: float = 60) -> str:
    """Run a shell script that must fail, and return what it said on stderr."""
    end = "; code=$?; exec 1>&2; echo code=$code; test $code != 0"
    return kubectl(
        "exec", "-n", namespace, pod, "--", "sh", "-c", f"exec 2>&1; {script}{end}",
        within_s=within_s,
    )  # fmt: skip


def messages(namespace: str, name: str) -> list[str]:
    """Events on an object, each as `reason: message`."""
    found = find("events", "-n", namespace, "--field-selector", f"involvedObject.name={name}")
    return [f"{event.get('reason')}: {event.get('message')}" for event in found]


def wait_event(namespace: str, name: str, regex: str, *, within_s: float = 90) -> str:
    """Wait for an Event on the object whose `reason: message` has the regular expression."""
    deadline = time.monotonic() + within_s
    while True:
        seen = messages(namespace, name)
        for message in seen:
            if re.search(regex, message, re.DOTALL):
                return message
        if time.monotonic() > deadline:
            said = "\n".join(seen)
            raise CommandError(f"no Event {regex!r} on {namespace}/{name}, but:\n{said}")
        time.sleep(POLL_S)


def raw(path: str) -> str:
    return kubectl("get", "--raw", path)


def required(variable: str, default: str | None = None) -> str:
    """An environment variable of the run."""
    value = os.environ.get(variable) or default
    if not value:
        raise RuntimeError(f"set {variable}; e2e/README.md says how the tests are run")
    return value
