import errno
import json
import os
import pickle
import signal
import socket

import pytest
from forked import ForkedProcess
from safetensors import SafetensorError

from data_builders.files import (
    DataError,
    WriteError,
    broken_files_are_data_errors,
    check_at_least_1,
    is_intact,
    locked,
    new_folder,
    one_line,
    read_head,
    replacing_file,
    replacing_files,
    seal,
    write_errors,
)


def test_the_message_of_a_data_error_is_one_line():
    error = pickle.loads(pickle.dumps(DataError("a\nb\r\nc")))
    assert str(error) == "a b c" and isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "a b"),
        (ValueError(), "ValueError"),
        (OSError("disk\nis full"), "disk is full"),
        (NotADirectoryError(20, "Not a directory", "x.jsonl/out"), "x.jsonl/out: Not a directory"),
    ],
)
def test_every_error_is_one_line(error, line):
    assert one_line(error) == line


def test_a_count_is_at_least_1():
    check_at_least_1(num_proc=1, workers=None)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"workers={count} must be at least 1"):
            check_at_least_1(num_proc=1, workers=count)


@pytest.mark.parametrize("error", [ValueError("bad magic\nat 5"), AssertionError(), NotImplementedError("bad magic")])
def test_whatever_a_parser_raises_names_the_file(tmp_path, error):
    with (
        pytest.raises(
            DataError, match=r"x\.pkl: not a readable pickle \((bad magic( at 5)?|AssertionError)\); get the"
        ),
        broken_files_are_data_errors(tmp_path / "x.pkl", "pickle"),
    ):
        raise error


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "results.json"
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_has_the_mode_that_others_have(tmp_path):
    before = os.umask(0o077)
    try:
        with replacing_file(tmp_path / "new") as temporary:
            temporary.write_text("private, as the umask says")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    (tmp_path / "new").chmod(0o640)
    with replacing_file(tmp_path / "new") as temporary:
        temporary.write_text("as before")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [RuntimeError("PytorchStreamWriter failed"), OSError("No space left"), None])
def test_files_take_their_places_together_or_not_at_all(tmp_path, error):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("old")

    def write():
        with replacing_files(tmp_path) as folder:
            (folder / "config.json").write_text("new")
            if error is not None:
                raise error
            (folder / "model.safetensors").write_text("new")

    if error is None:
        write()
    else:
        with pytest.raises(WriteError, match=rf"{tmp_path}: could not be written, \d+ MB are free \({error}\)"):
            write()
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}  # and nothing unfinished
    assert contents == dict.fromkeys(("config.json", "model.safetensors"), "old" if error else "new")


def test_two_who_write_into_one_folder_do_not_meet(tmp_path):
    with replacing_files(tmp_path) as one, replacing_files(tmp_path) as other:
        (one / "config.json").write_text("one")
        (other / "model.json").write_text("other")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "one",
        "model.json": "other",
    }


@pytest.mark.parametrize(
    ("error", "says_space"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Quota exceeded"), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
    ],
)
def test_space_is_named_only_where_it_may_be_the_reason(tmp_path, error, says_space):
    with pytest.raises(WriteError, match="could not be written") as caught, write_errors(tmp_path / "x"):
        raise error
    assert ("MB are free" in str(caught.value)) is says_space


def test_a_fault_of_the_program_is_no_writing_error(tmp_path):
    with pytest.raises(RuntimeError, match="shape mismatch"), replacing_file(tmp_path / "x"):
        raise RuntimeError("shape mismatch")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: a pipe or device; write its content to a file"):
        read_head(tmp_path / "pipe")


def test_files_that_two_processes_seal_are_all_known(tmp_path):
    def seal_one_by_one(name):
        for number in range(40):
            file = tmp_path / f"{name}-{number}"
            file.write_text(name)
            seal([file])

    processes = [ForkedProcess(seal_one_by_one, name) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.finish()
        assert process.exitcode == 0
    assert is_intact(tmp_path)
    checksums = json.loads((tmp_path / "checksums.json").read_text())
    assert checksums.keys() == {f"{name}-{number}" for name in "ab" for number in range(40)}


class TestNewFolder:
    def test_it_appears_when_it_is_finished(self, tmp_path):
        path = tmp_path / "new" / "out"
        with new_folder(path) as unfinished:
            (unfinished / "data").mkdir()
            (unfinished / "data" / "x").write_text("x")
            assert not path.exists()
        assert list(path.parent.iterdir()) == [path] and (path / "data" / "x").read_text() == "x"
        assert path.stat().st_mode & 0o777 == (path / "data").stat().st_mode & 0o777  # not that of a temporary folder

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left"), DataError("bad sample")])
    def test_an_error_leaves_nothing(self, tmp_path, error):
        with pytest.raises(type(error)) as caught, new_folder(tmp_path / "out") as unfinished:
            (unfinished / "x").write_text("x")
            raise error
        assert list(tmp_path.iterdir()) == []
        if isinstance(error, OSError):
            assert isinstance(caught.value, WriteError) and "MB are free (No space left)" in str(caught.value)

    def test_what_is_there_already_stays(self, tmp_path):
        (tmp_path / "out").mkdir()
        with pytest.raises(FileExistsError, match="out exists already"), new_folder(tmp_path / "out") as unfinished:
            (unfinished / "x").write_text("x")
        assert list(tmp_path.rglob("*")) == [tmp_path / "out"]

    def test_a_place_that_cannot_be_written_to_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(WriteError, match="file/out: could not be written"), new_folder(tmp_path / "file" / "out"):
            pass


@pytest.mark.parametrize("is_folder", [True, False])
def test_one_process_writes_and_the_others_are_told_who(tmp_path, is_folder):
    path = tmp_path / "new" / "out"
    if is_folder:
        path.mkdir(parents=True)

    def write():
        with locked(path):
            return 0

    def refused(holder):
        with pytest.raises(WriteError) as caught:
            write()
        return 0 if f"{path}: {holder} is writing there; wait until" in str(caught.value) else 1

    def finish(function, *arguments):
        process = ForkedProcess(function, *arguments)
        process.start()
        process.finish()
        return process.exitcode

    with locked(path):
        assert refused("this process") == 0
        myself = f"process {os.getpid()} on {socket.gethostname()}"
        assert [finish(refused, myself) for _ in range(2)] == [0, 0]  # no worker's end ends the lock
    assert write() == 0
    assert list(tmp_path.rglob("*")) == [path.parent, *[path] * is_folder]

    def killed():
        with locked(path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert finish(killed) == -signal.SIGKILL
    assert finish(write) == 0
