"""SQLite keeps a database in a bucket: rollback journal, WAL, and several processes."""

import pytest

from tests.programs.runs import minio, twice

__all__ = ["minio", "twice"]


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_a_database_is_made_changed_and_found_again(twice, journal):
    twice.sh(
        f"""
        sqlite3 a.db 'pragma journal_mode={journal};
            create table t (n integer primary key, text text);
            create index i on t (text);'
        sqlite3 a.db 'with recursive c(n) as (select 1 union all select n+1 from c where n<5000)
            insert into t select n, hex(n * 7919) from c;'
        sqlite3 a.db "begin; update t set text = 'none'; rollback;
            begin; delete from t where n % 3 = 0; update t set text = 'x' where n < 100; commit;"
        sqlite3 a.db 'vacuum; pragma integrity_check; select count(*), sum(length(text)) from t;'
        ls
        """
    )
    twice.compare(r"a\.db(-journal)?$" if journal == "wal" else r"a\.db-journal$")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_four_processes_count_in_one_database(twice, journal):
    twice.python(
        f"""
        import multiprocessing, sqlite3

        def connect():
            return sqlite3.connect("a.db", timeout=60, isolation_level=None)

        def count(_):
            db = connect()
            for _ in range(25):
                db.execute("begin immediate")
                (n,) = db.execute("select n from t").fetchone()
                db.execute("update t set n = ?", (n + 1,))
                db.execute("commit")
            db.close()

        if __name__ == "__main__":
            db = connect()
            db.execute("pragma journal_mode={journal}")
            db.execute("create table t (n integer)")
            db.execute("insert into t values (0)")
            db.close()
            with multiprocessing.get_context("spawn").Pool(4) as pool:
                pool.map(count, range(4))
                pool.close()
                pool.join()
            db = connect()
            print(db.execute("select n from t").fetchall())
            print(db.execute("pragma integrity_check").fetchall())
            db.close()
        """
    )
    twice.compare(r"a\.db$")


def test_a_program_that_is_killed_in_a_transaction_is_rolled_back(twice):
    twice.python(
        """
        import os, sqlite3, subprocess, sys
        db = sqlite3.connect("a.db", isolation_level=None)
        db.execute("pragma cache_size=1")
        db.execute("create table t (n integer, pad text)")
        db.executemany("insert into t values (?, ?)", [(n, "x" * 1000) for n in range(300)])
        db.close()
        child = '''
        import os, signal, sqlite3
        db = sqlite3.connect("a.db", isolation_level=None)
        db.execute("pragma cache_size=1")
        db.execute("begin")
        db.execute("update t set n = -1, pad = pad || 'y'")
        os.kill(os.getpid(), signal.SIGKILL)
        '''
        import textwrap
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(child)], check=False)
        assert done.returncode == -9
        assert os.path.exists("a.db-journal")
        db = sqlite3.connect("a.db")
        print(db.execute("select min(n), max(n), max(length(pad)), count(*) from t").fetchall())
        print(db.execute("pragma integrity_check").fetchall())
        db.close()
        """
    )
    twice.compare()
