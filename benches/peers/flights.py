"""Training sets of real flights by Larder, row by row beside DuckDB's: flights.py LARDER FLIGHTS.

FLIGHTS has flights.parquet, weather.parquet and planes.parquet: examples/flights, or the whole year.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import duckdb
import numpy
import pyarrow
import pyarrow.parquet

DEFINITIONS = Path(__file__).parents[2] / "examples/flights/definitions.toml"
# The time of views whose rows have none.
FOUNDED = "2013-01-01 00:00:00+00"
VIEWS = {
    "plane": ("planes.parquet", None),
    "weather": ("weather.parquet", "event_timestamp"),
    "last_flight_of_aircraft": ("flights.parquet", "event_timestamp"),
    "last_flight_on_route": ("flights.parquet", "event_timestamp"),
    "last_flight_of_carrier": ("flights.parquet", "event_timestamp"),
}
TYPES = {"int32": "INTEGER", "int64": "BIGINT", "float32": "FLOAT", "float64": "DOUBLE",
         "string": "VARCHAR", "timestamp": "TIMESTAMPTZ"}
TWICE = 500


def make_labels(flights, path):
    """Every flight as it was scheduled, in no order, some of them twice, by the clocks of New York."""
    keys = ["origin", "dest", "carrier", "tailnum"]
    table = pyarrow.parquet.read_table(flights, columns=["scheduled", *keys])
    table = table.filter(pyarrow.compute.is_valid(table["tailnum"]))
    random = numpy.random.default_rng(4)
    order = random.permutation(numpy.append(numpy.arange(len(table)), random.choice(len(table), TWICE)))
    table = table.take(order)
    local = table["scheduled"].cast(pyarrow.timestamp("ms", tz="America/New_York"))
    table = table.set_column(0, "at", local)
    table = table.append_column("label", pyarrow.array(numpy.arange(len(table))))
    pyarrow.parquet.write_table(table, path)


def make_store(larder, flights, data):
    run = lambda *command: subprocess.run([larder, *map(str, command)], check=True, capture_output=True)
    run("apply", DEFINITIONS, "--yes", "--data", data)
    for view, (file, time) in VIEWS.items():
        when = [] if time else ["--event-time", FOUNDED.replace(" ", "T").replace("+00", "Z")]
        run("load", flights / file, "--view", view, "--data", data, *when)


def by_duckdb(views, entities, flights):
    """The same by ASOF LEFT JOIN. Of two rows of one key and time, the later one in the file counts."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    columns, joins = ["label"], []
    for view, (file, time) in VIEWS.items():
        keys = entities[views[view]["entity"]]["join_keys"]
        time = time or f"TIMESTAMPTZ '{FOUNDED}'"
        db.execute(f"""CREATE TABLE {view} AS SELECT *, {time} AS its_time
            FROM read_parquet('{flights / file}', file_row_number = true)
            QUALIFY row_number() OVER (PARTITION BY {", ".join(keys)}, {time} ORDER BY file_row_number DESC) = 1""")
        same = " AND ".join(f"l.{key} = {view}.{key}" for key in keys)
        joins.append(f"ASOF LEFT JOIN {view} ON {same} AND l.at >= {view}.its_time")
        for name, feature in views[view]["features"].items():
            feature = feature if isinstance(feature, dict) else {"type": feature}
            value = f"{view}.{name}"
            if "default" in feature:
                default = feature["default"]
                default = f"'{default}'" if isinstance(default, str) else default
                value = f"coalesce({value}, {default})"
            columns.append(f"CAST({value} AS {TYPES[feature['type']]}) AS {view}__{name}")
    return db, f"SELECT {', '.join(columns)} FROM 'labels.parquet' l {' '.join(joins)}"


def main():
    larder, flights = sys.argv[1], Path(sys.argv[2]).resolve()
    definitions = tomllib.loads(DEFINITIONS.read_text())
    views, entities = definitions["view"], definitions["entity"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_store(larder, flights, folder / "data")
        make_labels(flights / "flights.parquet", folder / "labels.parquet")
        references = [f"{view}:{name}" for view in VIEWS for name in views[view]["features"]]
        command = [larder, "train", "--labels", folder / "labels.parquet", "--timestamp", "at", "--features",
                   ",".join(references), "--out", folder / "ours.parquet", "--data", folder / "data"]
        subprocess.run(command, check=True, capture_output=True)
        db, theirs = by_duckdb(views, entities, flights)
        theirs = theirs.replace("labels.parquet", str(folder / "labels.parquet"))
        db.execute(f"CREATE TABLE theirs AS {theirs}")
        columns = ", ".join(name for name, *_ in db.execute("DESCRIBE theirs").fetchall())
        db.execute(f"CREATE TABLE ours AS SELECT {columns} FROM '{folder}/ours.parquet'")
        for one, other in [("ours", "theirs"), ("theirs", "ours")]:
            (left,) = db.execute(f"SELECT count(*) FROM (FROM {one} EXCEPT ALL FROM {other})").fetchone()
            if left:
                found = db.execute(f"SELECT label FROM (FROM {one} EXCEPT ALL FROM {other}) LIMIT 5").fetchall()
                sys.exit(f"flights: {left} rows of {one} are not among {other}, as of labels {found}")
        kept, given = (pyarrow.parquet.read_table(folder / name, columns=["at", "label", "tailnum"])
                       for name in ["ours.parquet", "labels.parquet"])
        if not kept.equals(given):
            sys.exit("flights: the labels are not as they were")
        print(f"flights: {len(kept)} labels, {len(references)} features of {len(VIEWS)} views: "
              f"the same rows as DuckDB {duckdb.__version__}")


if __name__ == "__main__":
    main()
