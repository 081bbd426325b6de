"""The life of a web process: its drain flag, and its first contact with Redis."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.redis_server import PATIENCE_S, eventually

from imageserve.config.settings import Settings
from imageserve.errors import QueueForbidden, QueueKeyTaken, QueueUnavailable, SettingsError
from imageserve.queue import self_test
from imageserve.queue.self_test import EvictionWatch
from imageserve.web import lifecycle as module
from imageserve.web.lifecycle import (
    DrainFlag,
    Lifecycle,
    create_drain_flag,
    create_metrics_dir,
    run_dir,
    start_first_contact,
    wait_for_redis,
)

OTHER_PROCESS = """
import sys
from pathlib import Path
from imageserve.web.lifecycle import DrainFlag
flag = DrainFlag(Path(sys.argv[1]))
print(flag.is_set, flush=True)
sys.stdin.readline()
print(flag.is_set, flush=True)
sys.stdin.readline()
flag.set()
print("done", flush=True)
"""


def test_the_flag_is_not_set_at_first_and_stays_set(tmp_path: Path) -> None:
    create_drain_flag(tmp_path)
    flag = DrainFlag(tmp_path)

    before = flag.is_set
    flag.set()
    flag.set()

    assert (before, flag.is_set) == (False, True)


def test_a_new_server_starts_with_a_new_flag(tmp_path: Path) -> None:
    create_drain_flag(tmp_path / "made" / "for it")
    DrainFlag(tmp_path / "made" / "for it").set()

    create_drain_flag(tmp_path / "made" / "for it")

    assert not DrainFlag(tmp_path / "made" / "for it").is_set


def test_without_a_server_there_is_no_flag(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="draining"):
        DrainFlag(tmp_path)


@pytest.mark.parametrize("make", [create_drain_flag, create_metrics_dir])
def test_a_link_in_the_directory_is_not_followed(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    other, directory = tmp_path / "other", tmp_path / "run"
    other.mkdir()
    directory.mkdir()
    (other / "file").write_text("of somebody else")
    (directory / "draining").symlink_to(other / "file")
    (directory / "metrics").symlink_to(other)

    make(directory)

    assert [path.read_text() for path in other.iterdir()] == ["of somebody else"]


def test_drain_follows_no_link_either(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("of somebody else")
    (tmp_path / "draining").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="draining"):
        DrainFlag(tmp_path)
    (tmp_path / "draining").unlink()
    (tmp_path / "draining").hardlink_to(tmp_path / "other")
    with pytest.raises(SettingsError, match="not made by this user"):
        DrainFlag(tmp_path)
    assert (tmp_path / "other").read_text() == "of somebody else"


def test_only_this_user_may_write_to_a_new_directory(tmp_path: Path) -> None:
    new = tmp_path / "new"

    create_drain_flag(new)
    create_metrics_dir(new)

    assert new.stat().st_mode & 0o777 == 0o700
    assert (new / "metrics").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o2777, 0o775])
def test_in_a_directory_of_all_it_is_a_private_one_and_theirs_stays_as_it_is(
    tmp_path: Path, mode: int
) -> None:
    tmp_path.chmod(mode)
    directory = run_dir(Settings(run_dir=str(tmp_path), web_port=8123))

    create_drain_flag(directory)
    create_metrics_dir(directory)

    assert directory == tmp_path / "imageserve-8123"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o7777 == mode
    assert run_dir(Settings(run_dir=str(tmp_path), web_port=8123)) == directory


AS_IN_A_POD = """
import os, sys
from imageserve.config.settings import Settings
from imageserve.web.lifecycle import DrainFlag, create_drain_flag, create_metrics_dir, run_dir
os.setgroups([])
os.setgid(65532)
os.setuid(65532)
directory = run_dir(Settings(run_dir=sys.argv[1]))
create_metrics_dir(directory)
create_drain_flag(directory)
DrainFlag(directory).set()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o2777, 65532), (0o2775, 65532)])
def test_a_volume_of_a_pod_belongs_to_root_and_serves_another_user(mode: int, group: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as parent:
        os.chmod(parent, 0o755)
        volume = Path(parent) / "run"
        volume.mkdir()
        os.chown(volume, 0, group)
        volume.chmod(mode)

        subprocess.run([sys.executable, "-c", AS_IN_A_POD, str(volume)], check=True)

        assert volume.stat().st_mode & 0o7777 == mode
        directory = run_dir(Settings(run_dir=str(volume)))
        assert directory.stat().st_uid == 65532
        assert DrainFlag(directory).is_set, "root reads the flag of another user, and may set it"


def test_a_directory_that_others_have_opened_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o757)

    with pytest.raises(SettingsError, match=r"others can write to .*open: end that \(chmod go-w"):
        create_drain_flag(directory)

    assert directory.stat().st_mode & 0o777 == 0o757


def test_a_server_that_takes_over_keeps_the_flag_of_the_one_before(tmp_path: Path) -> None:
    create_drain_flag(tmp_path)
    of_the_old_server = DrainFlag(tmp_path)

    create_drain_flag(tmp_path)
    DrainFlag(tmp_path).set()

    assert of_the_old_server.is_set


@pytest.mark.parametrize("kind", ["others may write", "two names", "a pipe", "another user's"])
def test_a_flag_that_is_not_safe_is_replaced(tmp_path: Path, kind: str) -> None:
    create_drain_flag(tmp_path)
    path = tmp_path / "draining"
    if kind == "others may write":
        path.chmod(0o666)
    elif kind == "two names":
        (tmp_path / "other").hardlink_to(path)
    elif kind == "a pipe":
        path.unlink()
        os.mkfifo(path)
    elif os.geteuid() == 0:
        os.chown(path, 4321, -1)
    else:
        pytest.skip("gives a file away")

    create_drain_flag(tmp_path)

    found = path.stat()
    assert (found.st_uid, found.st_nlink, found.st_mode) == (os.geteuid(), 1, 0o100600)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives files away")
def test_root_may_drain_the_server_of_another_user(tmp_path: Path) -> None:
    create_drain_flag(tmp_path)
    os.chown(tmp_path / "draining", 4321, -1)
    with pytest.raises(SettingsError, match="not made by this user"):
        DrainFlag(tmp_path)  # In a directory of root it is none of a server's.

    os.chown(tmp_path, 4321, -1)
    DrainFlag(tmp_path).set()

    assert (tmp_path / "draining").read_bytes() == b"\1"


@pytest.mark.parametrize("make", [create_drain_flag, create_metrics_dir])
def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)

    with pytest.raises(SettingsError, match=r"RUN_DIR: .* belongs to another user"):
        make(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_counters_of_an_earlier_run_are_gone(tmp_path: Path) -> None:
    (create_metrics_dir(tmp_path) / "counter_1.db").write_text("1")

    assert list(create_metrics_dir(tmp_path).iterdir()) == []


@pytest.mark.parametrize("setter", ["this process", "the other process"])
def test_a_flag_that_one_process_sets_is_seen_by_another(tmp_path: Path, setter: str) -> None:
    create_drain_flag(tmp_path)
    flag = DrainFlag(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "False\n"

        if setter == "this process":
            flag.set()
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == f"{flag.is_set}\n"

        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "done\n"

    assert flag.is_set


def test_the_directory_is_the_one_that_is_set(tmp_path: Path) -> None:
    assert run_dir(Settings(run_dir=str(tmp_path))) == tmp_path


def test_without_a_setting_servers_on_different_ports_have_different_directories() -> None:
    one, another = run_dir(Settings(web_port=8000)), run_dir(Settings(web_port=8001))

    assert one.is_absolute()
    assert one == run_dir(Settings(web_port=8000))
    assert one != another


@pytest.mark.parametrize(
    ("errors", "ready", "killed"),
    [
        pytest.param([], True, [], id="at once"),
        pytest.param([QueueUnavailable("away")] * 7, True, [], id="after a while"),
        pytest.param([QueueKeyTaken("move it")] * 3, True, [], id="after a key was moved"),
        pytest.param([ValueError("bug")], True, [], id="after a bug"),
        pytest.param([QueueForbidden("no")], False, [signal.SIGTERM], id="never: the server stops"),
    ],
)
def test_a_web_process_is_ready_after_its_first_contact_with_redis(
    monkeypatch: pytest.MonkeyPatch,
    errors: list[Exception],
    ready: bool,
    killed: list[signal.Signals],
) -> None:
    pauses: list[float] = []
    signals: list[tuple[int, int]] = []
    left = list(errors)

    def check(settings: Settings, queue: str) -> None:
        if left:
            raise left.pop()

    monkeypatch.setattr(module, "check_redis", check)
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    lifecycle = Lifecycle()

    wait_for_redis(Settings(), "queue", lifecycle)

    assert lifecycle.ready is ready
    assert len(pauses) == (len(errors) if ready else 0)
    for pause_s, longest_s in zip(pauses, (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0), strict=False):
        assert longest_s / 2 <= pause_s <= longest_s
    assert signals == [(os.getppid(), number) for number in killed]


def test_a_node_that_hangs_does_not_keep_the_models_on_others_from_being_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("".join(f"{name}: {{queue: {name}, network: shapes}}\n" for name in "abc"))
    answers = threading.Event()
    checked: list[str] = []

    def check(settings: Settings, queue: str) -> None:
        if queue == "a":
            answers.wait(PATIENCE_S)
        checked.append(queue)

    monkeypatch.setattr(module, "check_redis", check)
    lifecycle = Lifecycle()

    start_first_contact(Settings(models_file=str(file)), lifecycle)

    eventually(lambda: lifecycle.ready and len(checked) == 2, "the others are checked")
    answers.set()
    eventually(lambda: sorted(checked) == ["a", "b", "c"], "each queue is checked")


def test_a_web_process_goes_on_to_watch_each_node_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("".join(f"{name}: {{queue: {name}, network: shapes}}\n" for name in "abc"))
    looked: list[EvictionWatch] = []

    def look_once(watch: EvictionWatch) -> None:
        looked.append(watch)
        if len(looked) == 1:
            raise ValueError("a bug")
        threading.Event().wait()

    monkeypatch.setattr(module, "check_redis", lambda settings, queue: None)
    monkeypatch.setattr(self_test, "WATCH_EVERY_S", 0.001)
    monkeypatch.setattr(EvictionWatch, "look", look_once)

    start_first_contact(
        Settings(models_file=str(file), redis_url="redis+cluster://here"), Lifecycle()
    )
    eventually(lambda: len(looked) == 4, "each node is watched, after a bug too")
    assert len(set(looked)) == 3
    start_first_contact(Settings(models_file=str(file)), Lifecycle())

    eventually(lambda: len(looked) == 5, "the only one is watched")
    time.sleep(0.05)
    assert len(looked) == 5
