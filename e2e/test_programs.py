"""Programs written for a local disk, in pods: what S3 file systems are known to fail at."""

import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

OPEN = ("allow-delete", "allow-overwrite", "uid=12574", "gid=12574")
USER = 12574


def python(code: str) -> str:
    return f"cd /data && python -W ignore - <<'END'\n{textwrap.dedent(code)}\nEND\n"


def at_once(*calls: Callable[[], str]) -> list[str]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_a_spark_job_writes_with_the_default_committer(ns, bucket, s3):
    """Its commits are renames of directories, which the AWS driver refuses."""
    job = python(
        """
        from pyspark.sql import SparkSession
        spark = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.memory", "512m")
            .getOrCreate()
        )
        rows = spark.range(1000).selectExpr("id", "id % 3 as part")
        rows.write.partitionBy("part").parquet("/data/table")
        rows.write.mode("append").partitionBy("part").parquet("/data/table")
        rows.write.mode("overwrite").parquet("/data/flat")
        rows.limit(10).write.mode("overwrite").parquet("/data/flat")
        print(spark.read.parquet("/data/table").count(), spark.read.parquet("/data/flat").count())
        """
    )
    home = [{"name": "HOME", "value": "/tmp"}]
    said = ns.run(ns.claim(bucket, *OPEN), job, user=USER, container={"env": home}, within_s=240)
    assert "\n2000 10\n" in f"\n{said}\n"
    keys = s3.keys(bucket)
    assert {"table/_SUCCESS", "flat/_SUCCESS"} <= set(keys)
    assert not [key for key in keys if "_temporary" in key]


def test_an_exclusive_create_has_one_winner_among_two_nodes(ns, nodes, bucket):
    claim = ns.claim(bucket, *OPEN)
    pods = [ns.pod(claim, user=USER, node=node) for node in nodes[:2]]
    race = python(
        """
        import os, socket
        won = []
        for n in range(40):
            try:
                fd = os.open(f"lock-{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(fd, socket.gethostname().encode())
            os.close(fd)
            won.append(n)
        print(*won)
        """
    )
    both = at_once(*((lambda pod=pod: ns.sh(pod, race)) for pod in pods))
    first, second = (set(map(int, said.split())) for said in both)
    assert first & second == set()
    assert first | second == set(range(40))
    for won, pod in ((first, pods[0]), (second, pods[1])):
        for n in list(won)[:5]:
            assert ns.sh(pods[0], f"cat /data/lock-{n}") == pod


def test_datashard_appends_from_two_nodes_lose_nothing(ns, nodes, bucket):
    claim = ns.claim(bucket, *OPEN)
    pods = [ns.pod(claim, user=USER, node=node) for node in nodes[:2]]
    table = """
        import json, time
        from datashard import Schema, create_table, load_table
        SCHEMA = Schema(schema_id=1, fields=[
            {"id": 1, "name": "who", "type": "string", "required": True},
            {"id": 2, "name": "n", "type": "long", "required": True},
        ])
    """
    append = (
        table
        + """
        def appended(record):
            try:
                return load_table("table").append_records([record], SCHEMA)
            except json.JSONDecodeError:
                return False  # read while another node was writing it
        for n in range(6):
            while not appended({"who": "WHO", "n": n}):
                time.sleep(0.1)
    """
    )
    ns.sh(pods[0], python(table + "\n        create_table('table', SCHEMA)"))
    at_once(
        *(
            (lambda pod=pod, who=who: ns.sh(pod, python(append.replace("WHO", who)), within_s=200))
            for pod, who in zip(pods, "ab", strict=True)
        )
    )
    rows = """
        for row in sorted((r["who"], r["n"]) for r in load_table("table").scan()):
            print(*row)
    """
    said = ns.sh(pods[1], python(table + rows))
    assert said.split("\n")[:-1] == [f"{who} {n}" for who in "ab" for n in range(6)]
