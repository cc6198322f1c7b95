"""Training sets over random history, by Larder and by its peers. `run` says how it is called."""

import argparse
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet

ENTITIES = 100_000
DAYS = 90
FEATURES = ["f0", "f1", "f2", "f3"]
FEW_LABELS = 10_000
OPEN_ROWS = 1_000_000  # no more fit into a segment of the log
START = 1_735_689_600_000_000  # 2025-01-01
DEFINITIONS = """
[entity.user]
join_keys = ["user_id:int64"]
[view.profile]
entity = "user"
features = { f0 = "float64", f1 = "float64", f2 = "float64", f3 = "float64" }
"""
NAMES = [f"profile__{feature}" for feature in FEATURES]


# Data --------------------------------------------------------------------------------------------


def random_keys(random, rows):
    times = START + random.integers(0, DAYS * 86_400_000_000, rows)
    return {
        "user_id": pyarrow.array(random.integers(0, ENTITIES, rows)),
        "event_timestamp": pyarrow.array(times, pyarrow.timestamp("us", tz="UTC")),
    }


def make_data(folder, rows, labels):
    """The history a million rows at a time, and two tables of labels."""
    random = numpy.random.default_rng(4)
    writer = None
    for first in range(0, rows, 1_000_000):
        count = min(1_000_000, rows - first)
        columns = random_keys(random, count)
        columns |= {feature: pyarrow.array(random.random(count)) for feature in FEATURES}
        table = pyarrow.table(columns)
        writer = writer or pyarrow.parquet.ParquetWriter(folder / "history.parquet", table.schema)
        writer.write_table(table)
    writer.close()
    for name, count in [("labels", labels), ("few", min(FEW_LABELS, labels))]:
        columns = random_keys(random, count)
        columns["label"] = pyarrow.array(numpy.arange(count))
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")


# Larder ------------------------------------------------------------------------------------------


class Server:
    """A server on a data directory, on a free port."""

    def __init__(self, larder, data):
        self.log = tempfile.TemporaryFile("w+")
        command = [larder, "serve", "--data", data, "--listen", "127.0.0.1:0"]
        environment = os.environ | {"LARDER__LOG__FORMAT": "json"}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        self.address = self.wait()

    def wait(self):
        while self.process.poll() is None:
            time.sleep(0.05)
            self.log.seek(0)
            for line in self.log:
                if "ready" in line and "127.0.0.1:" in line:
                    return "127.0.0.1:" + line.split("127.0.0.1:")[1].split('"')[0].split("]")[0].strip("\\, ")
        self.log.seek(0)
        sys.exit(f"larder did not start: {self.log.read()}")

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.address}/metrics") as answer:
            text = answer.read().decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))

    def peak(self):
        return peak_of(self.process.pid)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait() != 0:
            sys.exit("larder did not stop as it should")


def load(larder, folder):
    """Into a store."""
    data = str(folder / "data")
    (folder / "definitions.toml").write_text(DEFINITIONS)
    definitions = str(folder / "definitions.toml")
    subprocess.run([larder, "apply", definitions, "--yes", "--data", data], check=True)
    server = Server(larder, data)
    began = time.monotonic()
    history = str(folder / "history.parquet")
    command = [larder, "load", history, "--view", "profile", "--server", f"http://{server.address}"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    print(f"loaded in {time.monotonic() - began:.1f} s", flush=True)
    server.stop()


def settle(larder, folder, rows):
    """Waits until all but the open segment is sealed, and merged as far as it will be."""
    server = Server(larder, str(folder / "data"))
    began = time.monotonic()
    names = ["larder_sequence_sealed", "larder_history_sealed_files", "larder_history_merges_total"]
    before, quiet = None, 0
    # Files are merged by eight, and over the same times when it is quiet; no number shows that
    # before it is done.
    while quiet < (10 if before and before[1] <= 2 else 240) or before[0] + OPEN_ROWS < rows:
        time.sleep(0.5)
        now = [server.metric(name) for name in names]
        quiet = quiet + 1 if now == before else 0
        before = now
    print(f"sealed up to {before[0]:.0f} in {before[1]:.0f} files after another "
          f"{time.monotonic() - began:.1f} s", flush=True)
    server.stop()


def larder_train(larder, folder, labels, out, whom):
    command = [larder, "train", "--labels", str(folder / f"{labels}.parquet"), "--out", str(out),
               "--features", ",".join(f"profile:{feature}" for feature in FEATURES), *whom]
    return command


def post(server, folder, labels):
    """One request of an application that has a connection open; returns seconds and the answer."""
    connection = http.client.HTTPConnection(server.address)
    connection.connect()
    body = (folder / f"{labels}.parquet").read_bytes()
    names = ",".join(f"profile:{feature}" for feature in FEATURES)
    parquet = "application/vnd.apache.parquet"
    began = time.monotonic()
    connection.request("POST", f"/api/v1/features/historical?feature_names={names}&names=view__feature", body,
                       {"content-type": parquet, "accept": parquet})
    answer = connection.getresponse()
    made = answer.read()
    took = time.monotonic() - began
    if answer.status != 200:
        sys.exit(f"larder refused: {made}")
    return took, made


# Peers: each in a process of its own, which says how long it took ---------------------------------


def duckdb_train(folder, labels, out):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    columns = ", ".join(f"h.{feature} AS profile__{feature}" for feature in FEATURES)
    began = time.monotonic()
    connection.execute(f"""
        COPY (SELECT l.*, {columns}
              FROM '{folder}/{labels}.parquet' l ASOF LEFT JOIN '{folder}/history.parquet' h
              ON l.user_id = h.user_id AND l.event_timestamp >= h.event_timestamp)
        TO '{out}' (FORMAT parquet)""")
    return time.monotonic() - began, duckdb.__version__


def polars_train(folder, labels, out):
    import polars

    began = time.monotonic()
    history = polars.scan_parquet(f"{folder}/history.parquet").sort("event_timestamp")
    table = polars.scan_parquet(f"{folder}/{labels}.parquet").sort("event_timestamp")
    joined = table.join_asof(history, on="event_timestamp", by="user_id", strategy="backward")
    joined.rename(dict(zip(FEATURES, NAMES))).collect().write_parquet(out)
    return time.monotonic() - began, polars.__version__


def pandas_train(folder, labels, out):
    import pandas

    began = time.monotonic()
    history = pandas.read_parquet(f"{folder}/history.parquet").sort_values("event_timestamp")
    table = pandas.read_parquet(f"{folder}/{labels}.parquet").sort_values("event_timestamp")
    joined = pandas.merge_asof(table, history, on="event_timestamp", by="user_id")
    joined.rename(columns=dict(zip(FEATURES, NAMES))).to_parquet(out)
    return time.monotonic() - began, pandas.__version__


PEERS = {"duckdb": duckdb_train, "polars": polars_train, "pandas": pandas_train}


# Measuring ---------------------------------------------------------------------------------------


def peak_of(pid):
    """The most memory of a process, in MB; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) // 1024 if "VmHWM:" in status else 0


def run(command):
    """Seconds, peak memory in MB and the last line of a process."""
    environment = os.environ | {"POLARS_MAX_THREADS": "2"}
    with tempfile.TemporaryFile("w+") as out:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        peak = 0
        while process.poll() is None:
            # Not what wait4 says: that counts this process, of which the other began as a copy.
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.002)
        took = time.monotonic() - began
        out.seek(0)
        said = out.read().strip().splitlines()
    if process.returncode != 0:
        sys.exit(f"{command} failed: {said}")
    return took, peak, said[-1] if said else ""


def peer(name, folder, labels, out):
    _, memory, said = run([sys.executable, __file__, "--peer", name, str(folder), labels, str(out)])
    took, version = json.loads(said)
    return took, memory, version


def table_of(path):
    made = pyarrow.parquet.read_table(path, columns=["label", *NAMES])
    return made.sort_by("label")


def differing(path, others):
    ours, theirs = table_of(path), table_of(others)
    if len(ours) != len(theirs):
        return f"{len(ours)} rows instead of {len(theirs)}"
    same = numpy.ones(len(ours), bool)
    for name in ["label", *NAMES]:
        one, other = ours[name].to_numpy(), theirs[name].to_numpy()
        same &= (one == other) | (numpy.isnan(one) & numpy.isnan(other))
    return None if same.all() else f"{(~same).sum()} of {len(same)} rows differ"


def in_order(path, labels):
    kept = pyarrow.parquet.read_table(path, columns=["label"])
    return kept["label"].equals(pyarrow.parquet.read_table(labels, columns=["label"])["label"])


def measure(name, rounds, once):
    """The best and the median of some rounds, and the most memory."""
    found = [once() for _ in range(rounds)]
    times = sorted(took for took, *_ in found)
    memory = max(memory for _, memory, *_ in found)
    load = os.getloadavg()[0]
    print(f"{name:34} {times[0]:8.3f} s best {times[len(times) // 2]:8.3f} s median "
          f"{memory:6} MB  load {load:.1f}", flush=True)
    return times[len(times) // 2], memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--larder", default="larder")
    parser.add_argument("--peer", nargs=4)
    given = parser.parse_args()
    if given.peer:
        name, *arguments = given.peer
        print(json.dumps(PEERS[name](*arguments)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        compare(given, folder)


def compare(given, folder):
    print(f"{given.rows} rows, {given.labels} labels, {os.cpu_count()} cores", flush=True)
    if not (folder / "data").exists():
        make_data(folder, given.rows, given.labels)
        load(given.larder, folder)
    settle(given.larder, folder, given.rows)
    wrong = 0
    peers = [name for name in PEERS if importlib.util.find_spec(name)]
    rounds = given.rounds
    for labels in ["labels", "few"]:
        count = pyarrow.parquet.read_metadata(folder / f"{labels}.parquet").num_rows
        print(f"\n{count} labels", flush=True)
        figures, outs = {}, {}
        out = outs["larder train --data"] = folder / f"{labels}-data.parquet"
        command = larder_train(given.larder, folder, labels, out,
                               ["--data", str(folder / "data")])
        figures["larder train --data"] = measure("larder train --data", rounds, lambda: run(command))
        server = Server(given.larder, str(folder / "data"))
        out = outs["larder train --server"] = folder / f"{labels}-server.parquet"
        served = larder_train(given.larder, folder, labels, out,
                              ["--server", f"http://{server.address}"])

        def to_server():
            took, _, said = run(served)
            return took, server.peak(), said

        def to_route():
            took, made = post(server, folder, labels)
            (folder / f"{labels}-http.parquet").write_bytes(made)
            return took, server.peak()

        outs["larder, open store, HTTP"] = folder / f"{labels}-http.parquet"
        figures["larder train --server"] = measure("larder train --server", rounds, to_server)
        figures["larder, open store, HTTP"] = measure("larder, open store, HTTP", rounds, to_route)
        server.stop()
        for name in peers:
            out = outs[name] = folder / f"{labels}-{name}.parquet"
            figures[name] = measure(name, rounds, lambda: peer(name, folder, labels, out))
        for name in [name for name in outs if name.startswith("larder")]:
            if not in_order(outs[name], folder / f"{labels}.parquet"):
                print(f"{name}: the labels are not in their order")
                wrong += 1
        if "duckdb" not in figures:
            continue
        theirs, memory = figures["duckdb"]
        for name in figures:
            difference = differing(outs[name], outs["duckdb"]) if name != "duckdb" else None
            wrong += difference is not None and name.startswith("larder")
            print(f"{name:34} {theirs / figures[name][0]:6.2f} times as fast as DuckDB, "
                  f"{figures[name][1] / memory:5.2f} of its memory; "
                  f"{difference or 'the same rows'}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
