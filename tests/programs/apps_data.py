"""Libraries that keep data in files: `make apps`."""
# ruff: noqa: E501 - programs in other languages, and texts of programs

from tests.programs.runs import APPS_PYTHON, minio, twice

__all__ = ["minio", "twice"]


def run(twice, code, **more):
    return twice.python(code, interpreter=APPS_PYTHON, **more)


def test_duckdb_copies_queries_and_keeps_a_database(twice):
    run(
        twice,
        """
        import duckdb
        db = duckdb.connect("a.duckdb")
        db.execute("set threads = 1")
        db.execute("create table t as select range as n, range % 7 as k, hash(range) as h from range(200000)")
        db.execute("copy t to 'one.parquet' (format parquet)")
        db.execute("copy t to 'parts' (format parquet, partition_by (k))")
        db.execute("copy t to 'parts' (format parquet, partition_by (k), overwrite_or_ignore)")
        db.execute("copy (select * from t limit 1000) to 'a.csv' (header)")
        print(db.execute("select count(*), sum(n) from read_parquet('one.parquet')").fetchall())
        print(db.execute("select k, count(*) from read_parquet('parts/*/*.parquet') group by k order by k").fetchall())
        print(db.execute("select count(*) from 'a.csv'").fetchall())
        db.execute("begin; update t set h = 0 where n < 1000; rollback")
        db.execute("delete from t where k = 3; checkpoint")
        db.close()
        db = duckdb.connect("a.duckdb", read_only=True)
        print(db.execute("select count(*), sum(n) from t").fetchall())
        db.close()
        """,
    )
    twice.compare(r"\.duckdb$")


def test_pyarrow_writes_partitioned_data_sets(twice):
    run(
        twice,
        """
        import pyarrow as pa, pyarrow.dataset as ds, pyarrow.parquet as pq
        table = pa.table({"n": range(100_000), "k": [n % 5 for n in range(100_000)]})
        for behaviour in ("error", "overwrite_or_ignore", "delete_matching"):
            ds.write_dataset(
                table, "set", format="parquet", existing_data_behavior=behaviour, use_threads=False,
                partitioning=ds.partitioning(pa.schema([("k", pa.int64())]), flavor="hive"),
            )
        print(ds.dataset("set", partitioning="hive").to_table().num_rows)
        with pq.ParquetWriter("groups.parquet", table.schema) as writer:
            for _ in range(5):
                writer.write_table(table)
        print(pq.read_metadata("groups.parquet").num_row_groups, pq.read_table("groups.parquet").num_rows)
        with pa.OSFile("a.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        with pa.memory_map("a.arrow") as source:
            print(pa.ipc.open_file(source).read_all().num_rows)
        """,
    )
    twice.compare()


def test_h5py_changes_a_file_in_place(twice):
    run(
        twice,
        """
        import h5py, numpy as np
        with h5py.File("a.h5", "w", track_order=True) as file:
            file.create_dataset("x", data=np.arange(300_000), chunks=(10_000,), maxshape=(None,), compression="gzip")
            file["x"].attrs["unit"] = "m"
        with h5py.File("a.h5", "a") as file:
            file["x"].resize((400_000,))
            file["x"][300_000:] = 7
            file["x"][5] = -1
            file.create_group("g")["y"] = np.ones((100, 100))
            file.flush()
            del file["g/y"]
        with h5py.File("a.h5", "r+") as file:
            file["x"][10:20] = 0
        with h5py.File("a.h5") as file:
            print(int(file["x"][:].sum()), list(file), file["x"].attrs["unit"])
        """,
    )
    twice.compare(r"\.h5$")


def test_zarr_writes_chunks_and_groups(twice):
    run(
        twice,
        """
        import numpy as np, zarr
        group = zarr.open_group("a.zarr", mode="w")
        array = group.create_array("x", shape=(400, 400), chunks=(100, 100), dtype="i4")
        array[:] = np.arange(160_000, dtype="i4").reshape(400, 400)
        array[50:150, 50:150] = -1
        array.attrs["unit"] = "m"
        array.resize((400, 300))
        array.append(np.full((400, 10), 9, dtype="i4"), axis=1)
        print(int(zarr.open_group("a.zarr", mode="r")["x"][:].sum()))
        """,
    )
    twice.compare()


def test_safetensors_numpy_and_memory_maps(twice):
    run(
        twice,
        """
        import numpy as np
        from safetensors.numpy import load_file, save_file
        save_file({"w": np.arange(1_000_000, dtype="f4"), "b": np.ones(3)}, "model.safetensors")
        print(float(load_file("model.safetensors")["w"].sum()))
        np.save("a.npy", np.arange(100_000))
        view = np.load("a.npy", mmap_mode="r+")
        view[::1000] = -1
        view.flush()
        del view
        new = np.lib.format.open_memmap("new.npy", mode="w+", dtype="f8", shape=(1000, 100))
        new[500] = 3.5
        new.flush()
        del new
        np.savez_compressed("z.npz", a=np.arange(10), b=np.eye(3))
        print(int(np.load("a.npy").sum()), float(np.load("new.npy").sum()), sorted(np.load("z.npz")))
        """,
    )
    twice.compare(r"z\.npz")


def test_joblib_dumps_memory_maps_and_caches(twice):
    run(
        twice,
        """
        import joblib, numpy as np
        from sklearn.linear_model import LinearRegression
        x = np.random.default_rng(1).normal(size=(20_000, 20))
        joblib.dump(LinearRegression().fit(x, x.sum(axis=1)), "model.joblib")
        print(joblib.load("model.joblib").predict(x[:2]).round(6))
        joblib.dump(x, "x.joblib", compress=3)
        joblib.dump(x, "x.mmap")
        print(joblib.load("x.joblib").sum() == joblib.load("x.mmap", mmap_mode="r").sum())
        memory = joblib.Memory("cache", verbose=0)

        def double(n):
            return np.full(1000, n * 2)

        double = memory.cache(double)
        for _ in range(2):
            print([int(double(n).sum()) for n in range(5)])
        print(all(double.check_call_in_cache(n) for n in range(5)))
        """,
    )
    twice.compare("metadata.json$", "func_code.py$")


def test_pip_installs_into_the_mount_and_it_is_imported(twice):
    twice.sh(
        """
        export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
        python3 -m pip install -q --no-compile --target site six==1.17.0 packaging==25.0
        python3 -m pip install -q --no-compile --target site --upgrade six==1.16.0
        ls site && PYTHONPATH=site python3 -c 'import packaging, six
        print(six.__file__, six.__version__, packaging.__version__)' | sed "s|$PWD|HERE|"
        """.replace("\n        print", "\nprint")
    )
    twice.compare("/RECORD$")
