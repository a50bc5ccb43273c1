"""What Python programs do with files: the standard library, pandas, and habits of notebooks."""

import pytest

from tests.programs.runs import minio, twice

__all__ = ["minio", "twice"]


def test_tempfile_in_all_its_forms_with_tmpdir_on_the_mount(twice):
    twice.python(
        """
        import os, tempfile
        tempfile.tempdir = os.getcwd()
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 3_000_000)
            file.seek(1_000_000)
            file.write(b"in the middle")
            file.seek(999_990)
            print(file.read(40), os.fstat(file.fileno()).st_size)
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("text")
            file.flush()
            print(open(file.name).read())
            file.seek(0)
            print(file.read())
        with tempfile.TemporaryDirectory() as directory:
            for n in range(5):
                os.mkdir(f"{directory}/{n}")
                open(f"{directory}/{n}/f", "w").close()
        with tempfile.SpooledTemporaryFile(max_size=10) as file:
            file.write(b"more than ten bytes")
            file.seek(5)
            print(file.read())
        fd, path = tempfile.mkstemp()
        os.unlink(path)
        os.pwrite(fd, b"after unlink", 0)
        print(os.pread(fd, 100, 0))
        os.ftruncate(fd, 5)
        print(os.pread(fd, 100, 0), os.fstat(fd).st_nlink >= 0)
        os.close(fd)
        """
    )
    assert twice.compare() == {}


def test_pytest_keeps_its_temporary_directories_on_the_mount(twice):
    twice.sh(
        """
        mkdir tests tmp
        printf 'import pytest\\n@pytest.mark.parametrize("n", range(3))\\n' > tests/test_it.py
        printf 'def test_it(n, tmp_path):\\n    (tmp_path / "f").write_text(str(n))\\n' \
            >> tests/test_it.py
        """
    )
    twice.python(
        """
        import os, subprocess, sys
        words = [sys.executable, "-m", "pytest", "-q", "--basetemp=tmp/pytest", "tests"]
        for _ in range(2):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            print(done.returncode, done.stdout.split(" in ")[0], done.stderr)
        """
    )
    found = twice.compare(r"\.pyc$", "lastfailed|nodeids|current$")
    assert found["tmp/pytest/test_it_0_0/f"] == b"0"


def test_shelve_dbm_and_pickle(twice):
    twice.python(
        """
        import dbm, dbm.dumb, pickle, shelve
        for _ in range(3):
            with shelve.open("shelf") as shelf:
                for n in range(50):
                    shelf[str(n)] = shelf.get(str(n), []) + ["x" * n]
                del shelf["7"]
        with shelve.open("shelf", flag="r") as shelf:
            print(len(shelf), sum(map(len, shelf.values())))
        with dbm.dumb.open("dumb", "c") as db:
            for n in range(50):
                db[str(n)] = b"y" * n
        with open("p", "wb") as file:
            pickle.dump({n: [n] * 10 for n in range(1000)}, file)
        with open("p", "rb") as file:
            print(len(pickle.load(file)))
        """
    )
    twice.compare(r"shelf")


def test_logging_appends_rotates_and_is_shared_by_processes(twice):
    twice.python(
        """
        import logging, logging.handlers, multiprocessing, os

        def work(who):
            handler = logging.FileHandler("shared.log")
            handler.setFormatter(logging.Formatter("%(message)s"))
            log = logging.Logger(f"w{who}")
            log.addHandler(handler)
            for n in range(30):
                log.warning("worker %d line %d", who, n)
            handler.close()

        if __name__ == "__main__":
            log = logging.Logger("one")
            handler = logging.handlers.RotatingFileHandler("r.log", maxBytes=500, backupCount=3)
            log.addHandler(handler)
            for n in range(60):
                log.warning("line %d of the log", n)
            handler.close()
            handler = logging.handlers.WatchedFileHandler("w.log")
            log = logging.Logger("two")
            log.addHandler(handler)
            for n in range(3):
                log.warning("before %d", n)
                os.rename("w.log", f"w.log.{n}")
                log.warning("after %d", n)
            handler.close()
            with multiprocessing.get_context("spawn").Pool(3) as pool:
                pool.map(work, range(3))
                pool.close()
                pool.join()
            print(sorted(open("shared.log")) == sorted(
                f"worker {w} line {n}\\n" for w in range(3) for n in range(30)))
        """
    )
    twice.compare(r"shared\.log")


def test_a_notebook_is_saved_atomically_with_a_checkpoint(twice):
    """As jupyter_server writes: a copy aside, the new bytes, the copy away; or by rename."""
    twice.python(
        """
        import json, os, shutil, tempfile

        def save(path, book):
            aside = f".~{path}"
            if os.path.exists(path):
                shutil.copy2(path, aside)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(book, file)
                file.flush()
                os.fsync(file.fileno())
            if os.path.exists(aside):
                os.remove(aside)

        def save_by_rename(path, book):
            fd, new = tempfile.mkstemp(dir=".")
            with os.fdopen(fd, "w") as file:
                json.dump(book, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
            above = os.open(".", os.O_RDONLY)
            os.fsync(above)
            os.close(above)

        os.mkdir(".ipynb_checkpoints")
        for n in range(10):
            book = {"cells": ["x" * 100] * n}
            save("a.ipynb", book)
            save_by_rename("b.ipynb", book)
            shutil.copyfile("a.ipynb", ".ipynb_checkpoints/a-checkpoint.ipynb")
            for path in ("a.ipynb", "b.ipynb"):
                with open(path) as file:
                    print(len(json.load(file)["cells"]))
        """
    )
    found = twice.compare()
    assert sorted(found) == [
        ".ipynb_checkpoints", ".ipynb_checkpoints/a-checkpoint.ipynb", "a.ipynb", "b.ipynb",
    ]  # fmt: skip


def test_a_subprocess_is_forked_in_the_middle_of_a_large_write(twice):
    twice.python(
        """
        import hashlib, os, random, subprocess
        block = random.Random(7).randbytes(1 << 20)
        with open("big", "wb", buffering=0) as file:
            os.set_inheritable(file.fileno(), True)
            for n in range(48):
                assert file.write(block) == 1 << 20
                if n % 6 == 0:
                    subprocess.run(["true"], close_fds=False, check=True)
                    pid = os.fork()
                    if pid == 0:
                        os._exit(0)
                    os.waitpid(pid, 0)
            subprocess.run(["sh", "-c", f"echo from a child >&{file.fileno()}"],
                           close_fds=False, check=True)
            file.write(b"the end")
        print(hashlib.file_digest(open("big", "rb"), "sha256").hexdigest())
        """
    )
    found = twice.compare()
    assert found["big"].endswith(b"from a child\nthe end")


def test_a_shared_mapping_is_written(twice):
    twice.python(
        """
        import mmap, os
        with open("m", "wb") as file:
            file.truncate(1 << 20)
        with open("m", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            for n in range(0, 1 << 20, 5000):
                view[n : n + 4] = n.to_bytes(4, "big")
            view.flush()
            view[-4:] = b"last"
            print(view.find(b"last"))
        with open("m", "r+b") as file:
            view = mmap.mmap(file.fileno(), 0)
        view[:5] = b"after"  # after close
        view.close()
        with open("m", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            print(bytes(view[:8]), view.find(b"last"))
        """
    )
    found = twice.compare()
    assert found["m"][:5] == b"after"


def test_descriptors_are_duplicated_closed_twice_and_written_after_fsync(twice):
    twice.python(
        """
        import contextlib, os
        fd = os.open("f", os.O_CREAT | os.O_RDWR)
        other = os.dup(fd)
        os.write(fd, b"one")
        os.close(other)
        os.write(fd, b"two")
        os.fsync(fd)
        os.write(fd, b"three")
        print(os.pread(fd, 100, 0), os.lseek(fd, 0, os.SEEK_END))
        os.close(fd)
        with contextlib.suppress(OSError):
            os.close(fd)
        a, b = os.open("f", os.O_WRONLY | os.O_APPEND), os.open("f", os.O_RDWR)
        os.write(a, b"appended")
        os.pwrite(b, b"ONE", 0)
        os.write(a, b"again")
        print(os.pread(b, 100, 0))
        os.close(a)
        os.close(b)
        print(os.stat("f").st_size, open("f").read())
        os.truncate("f", 4)
        os.truncate("f", 8)
        print(ascii(open("f").read()))
        """
    )
    twice.compare()


def test_modules_are_written_and_imported_at_once(twice):
    """The import system lists a directory again only when its time has changed."""
    twice.python(
        """
        import importlib, os, sys, time
        sys.path.insert(0, os.getcwd())
        sys.dont_write_bytecode = True
        for n in range(5):
            time.sleep(0.02)
            with open(f"module{n}.py", "w") as file:
                file.write(f"value = {n}")
            print(importlib.import_module(f"module{n}").value)
        """
    )
    twice.compare()


@pytest.mark.parametrize("engine", ["csv", "parquet", "feather", "json"])
def test_pandas_writes_and_reads_a_frame(twice, engine):
    twice.python(
        f"""
        import os
        import pandas as pd
        text = [f"row {{n % 97}}" for n in range(50_000)]
        frame = pd.DataFrame({{"n": range(50_000), "text": text}})
        os.mkdir("d")
        for path in ("a", "d/b"):
            if "{engine}" == "csv":
                frame.to_csv(path, index=False)
                frame.tail(10).to_csv(path, index=False, mode="a", header=False)
            else:
                getattr(frame, "to_{engine}")(path)
            print(getattr(pd, "read_{engine}")(path).describe())
            os.replace(path, f"{{path}}.renamed")
        """
    )
    twice.compare()
