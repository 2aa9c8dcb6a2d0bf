"""Hub ids that the catalogue does not know, against a Hub of our own on this machine."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread

import pytest

Process = Callable[..., CompletedProcess[str]]

CONFIG = json.dumps({
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 100, "intermediate_size": 128,
}).encode()  # fmt: skip
FAULTS = {
    "missing": (404, {"X-Error-Code": "RepoNotFound"}),
    "no-config": (404, {"X-Error-Code": "EntryNotFound"}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "private": (401, {}),
}


class Hub(BaseHTTPRequestHandler):
    """Answers for ``OWNER/NAME/resolve/main/config.json``; the owner says how."""

    asked: list[str]

    def do_HEAD(self) -> None:
        owner = self.path.split("/")[1]
        self.asked.append(self.path)
        status, headers = FAULTS.get(owner, (200, {}))
        size = len(CONFIG) if status == 200 else 0
        fixed = {"ETag": '"1"', "X-Repo-Commit": "a" * 40, "Content-Length": str(size)}
        self.send_response(status)
        for name, value in {**headers, **fixed}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if self.path.split("/")[1] not in FAULTS:
            self.wfile.write(CONFIG)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def online(server: ThreadingHTTPServer, home: Path) -> dict[str, str]:
    address = f"http://127.0.0.1:{server.server_port}"
    return {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}


def test_a_config_is_fetched_once_and_then_found_offline(
    hub: ThreadingHTTPServer, tmp_path: Path, process: Process
) -> None:
    first = process("train", "me/tiny", "--json", **online(hub, tmp_path))
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["inputs"]["model"] == "me/tiny"
    n_asked = len(Hub.asked)
    assert n_asked > 0
    again = process("train", "me/tiny", "--json", **online(hub, tmp_path))
    offline = process("train", "me/tiny", "--json", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert again.stdout == offline.stdout == first.stdout
    assert len(Hub.asked) == n_asked


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("missing", "a Hub id"),
        ("no-config", "config.json"),
        ("gated", "licence"),
        ("private", "auth"),
    ],
)
def test_what_the_hub_refuses_is_said(
    owner: str, said: str, hub: ThreadingHTTPServer, tmp_path: Path, process: Process
) -> None:
    found = process("train", f"{owner}/model", **online(hub, tmp_path))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"error: MODEL: '{owner}/model'")
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written(
    hub: ThreadingHTTPServer, process: Process, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file where the cache's folder should be")
    found = process("train", "me/tiny", **online(hub, tmp_path / "file" / "cache"))
    assert (found.returncode, found.stdout) == (2, "")
    assert "cannot be cached" in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_hub_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmsize.api import hub as ours
    from lmsize.errors import NetworkError

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: time.sleep(1))
        monkeypatch.setattr(ours, "FETCHED_WITHIN_S", 0.2)
        with pytest.raises(NetworkError, match=r"nothing within 0\.2 s"):
            ours.fetched_config("me/unheard-of")


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://nowhere.invalid"},
    ],
)
def test_without_a_network_it_says_so_at_once(
    environment: dict[str, str], tmp_path: Path, process: Process
) -> None:
    started = time.monotonic()
    found = process("train", "meta-llama/Lama-3.1-8B", HF_HOME=str(tmp_path), **environment)
    assert time.monotonic() - started < 20  # the Hub's own client retries for longer than that
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: MODEL: 'meta-llama/Lama-3.1-8B'")
    assert "did you mean meta-llama/Llama-3.1-8B" in found.stderr


@pytest.mark.parametrize("address", ["nothing", "http://[::1", "http://host:port"])
def test_an_address_that_is_none(address: str, process: Process, tmp_path: Path) -> None:
    found = process("train", "me/x", HF_ENDPOINT=address, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert (found.returncode, found.stdout) == (2, "")
    assert "HF_ENDPOINT" in found.stderr


@pytest.mark.parametrize("name", ["me/ti ny", "me/..", "me/тест", f"{'a' * 200}/b", "-/-"])
def test_what_cannot_be_a_hub_id(
    name: str, refused: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "a Hub id or a path" in refused(["train", "--", name])


def test_a_hub_id_of_the_catalogue_never_touches_the_network(process: Process) -> None:
    found = process("train", "meta-llama/Llama-3.1-8B", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert found.returncode == 0
    assert json.loads(found.stdout)["parameters"]["total"] == 8_030_261_248
