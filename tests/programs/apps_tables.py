"""Tables that many writers share, DataShard and Spark: `make apps`."""
# ruff: noqa: E501 - programs in other languages, and texts of programs

import re
import subprocess

import pytest

from tests.mount.command import free_directory, mount, wait_gone, worker
from tests.programs.runs import APPS_PYTHON, WITHIN_S, minio, twice

__all__ = ["minio", "twice"]

SPARK_WITHIN_S = 400
OWN_TESTS_WITHIN_S = 500

DATASHARD = """
    import json, multiprocessing, os, sys, time
    from datashard import Schema, create_table, load_table

    FIELDS = [
        {"id": 1, "name": "who", "type": "string", "required": True},
        {"id": 2, "name": "n", "type": "long", "required": True},
    ]
    SCHEMA = Schema(schema_id=1, fields=FIELDS)
    APPENDS = 6

    def append(who, path="table"):
        table = load_table(path)
        for n in range(APPENDS):
            while not is_appended(table, [{"who": who, "n": n}]):
                time.sleep(0.1)

    def is_appended(table, records):
        try:
            return table.append_records(records, SCHEMA)
        except json.JSONDecodeError:
            return False  # it has read what another mount is about to write: see below

    def check(writers, path="table"):
        rows = load_table(path).scan()
        got = sorted((row["who"], row["n"]) for row in rows)
        assert got == sorted((w, n) for w in writers for n in range(APPENDS)), got
        print(len(got), load_table(path).verify())
"""
# ruff: noqa: E501 - programs in other languages, and texts of programs


def test_four_processes_append_to_a_datashard_table(twice):
    """And what the bucket holds then is a table that can be read from a local directory."""
    code = (
        DATASHARD
        + """
    if __name__ == "__main__":
        create_table("table", SCHEMA)
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            pool.map(append, "abcd")
            pool.close()
            pool.join()
        check("abcd")
    """
    )
    twice.mounted.python(code, interpreter=f"{APPS_PYTHON} -W ignore")
    twice.unmount()
    for path, data in twice.objects().items():
        there = twice.local.root / path
        (there if data is None else there.parent).mkdir(parents=True, exist_ok=True)
        if data is not None:
            there.write_bytes(data)
    twice.local.python(f"{DATASHARD}\n    check('abcd')", interpreter=f"{APPS_PYTHON} -W ignore")


def test_two_mounts_append_to_one_datashard_table(twice, minio, tmp_path):
    """Two nodes: locks are each mount's own, so O_EXCL decides between them.

    DataShard links a whole file to its name; where that gives EPERM, it makes the file with O_EXCL
    and then writes it, so others may read it empty, and say so. No append is lost or repeated.
    """
    python = f"{APPS_PYTHON} -W ignore"
    twice.mounted.python(f"{DATASHARD}\n    create_table('table', SCHEMA)", interpreter=python)
    env = {**twice.mounted.env, **minio.env(), "AWS_ENDPOINT_URL": minio.endpoint}
    program = tmp_path / "append.py"
    text = re.sub(r"(?m)^    ", "", DATASHARD) + "\nfor who in sys.argv[1:]: append(who)\n"
    program.write_text(text)
    with free_directory() as other:
        guards = ("--allow-delete", "--allow-overwrite")
        assert mount(twice.bucket, other, *guards, env=env).returncode == 0
        words = [str(APPS_PYTHON), "-W", "ignore", str(program)]
        writers = [
            subprocess.Popen(
                [*words, who], cwd=place, env=twice.mounted.env, stderr=subprocess.PIPE, text=True
            )
            for who, place in (("a", twice.mounted.root), ("b", other), ("c", other))
        ]
        said = [w.communicate(timeout=WITHIN_S)[1] for w in writers]
        assert [w.returncode for w in writers] == [0, 0, 0], said
        pid = worker(other)
        subprocess.run(["umount", other], check=True, timeout=WITHIN_S)
        wait_gone(pid)
    twice.mounted.python(f"{DATASHARD}\n    check('abc')", interpreter=python)


def test_datashards_own_tests_end_on_a_mount_as_on_a_local_disk(twice):
    """Those that its archive has all of: it lacks conftest.py, some documents, and an S3."""
    (archive,) = APPS_PYTHON.parents[1].glob("datashard-*.tar.gz")
    twice.sh(
        f"""
        export PYTHONDONTWRITEBYTECODE=1 TMPDIR=$PWD/tmp
        mkdir tmp && tar xzf {archive} && cd datashard-*
        {APPS_PYTHON} -m pytest tests -q -p no:cacheprovider --junit-xml=$SCRIPTS/results.xml \\
            --ignore tests/test_main.py --ignore tests/test_s3_integration.py > $SCRIPTS/out || true
        """,
        within_s=OWN_TESTS_WITHIN_S,
    )
    said = twice.python(
        """
        from os import environ
        from xml.etree import ElementTree
        for case in ElementTree.parse(environ["SCRIPTS"] + "/results.xml").iter("testcase"):
            print(case.get("classname"), case.get("name"), *(e.tag for e in case))
        """
    )
    passed = [line for line in said.splitlines() if len(line.split()) == 2]
    assert len(passed) > 200, said
    twice.unmount()


@pytest.mark.parametrize("algorithm", [1, 2])
def test_spark_writes_overwrites_appends_and_partitions(twice, algorithm):
    """With the default committer, whose commits are renames."""
    code = f"""
        import os
        from pyspark.sql import SparkSession, functions as f
        spark = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "4")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.warehouse.dir", os.getcwd() + "/warehouse")
            .config("spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version", "{algorithm}")
            .getOrCreate()
        )
        here = "file://" + os.getcwd()
        frame = spark.range(0, 20_000, 1, 4).withColumn("k", f.col("id") % 5)
        frame.write.parquet(here + "/t")
        frame.write.mode("overwrite").parquet(here + "/t")
        frame.write.mode("append").parquet(here + "/t")
        frame.write.partitionBy("k").parquet(here + "/p")
        frame.write.mode("append").partitionBy("k").parquet(here + "/p")
        spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
        frame.where("k = 2").write.mode("overwrite").partitionBy("k").parquet(here + "/p")
        frame.write.mode("overwrite").option("header", True).csv(here + "/c")
        frame.write.saveAsTable("managed")
        for name in ("t", "p"):
            print(name, spark.read.parquet(here + "/" + name).agg({{"id": "sum", "k": "count"}}).collect())
        print(spark.read.option("header", True).csv(here + "/c").count())
        print(spark.table("managed").count())
        spark.stop()
        """
    twice.python(code, interpreter=f"{APPS_PYTHON} -W ignore", within_s=SPARK_WITHIN_S)
    twice.unmount()
    assert shape(twice.objects()) == shape(
        {
            str(p.relative_to(twice.local.root)): None if p.is_dir() else p.read_bytes()
            for p in twice.local.root.rglob("*")
        }
    )


def shape(tree):
    """Names without Spark's random identifiers; every file with its size."""
    named = [
        (re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", path), None if data is None else len(data))
        for path, data in tree.items()
        if not re.search(r"metastore_db|derby\.log", path)
    ]
    return sorted(named, key=str)
