"""Compares an export with the files it came from: read.py EXPORT FLIGHTS."""

import re
import sys

import duckdb
import pyarrow.dataset

LOADED = {
    "plane": ("planes.parquet", None),
    "weather": ("weather.parquet", "event_timestamp"),
    "last_flight_of_aircraft": ("flights.parquet", "event_timestamp"),
    "last_flight_on_route": ("flights.parquet", "event_timestamp"),
    "last_flight_of_carrier": ("flights.parquet", "event_timestamp"),
    "last_arrival_of_aircraft": ("flights.parquet", "landed_by"),
}
OURS = ("event_timestamp", "arrival_timestamp", "sequence", "day", "view")

lake, flights = sys.argv[1:]
readme = open(f"{lake}/README.md").read()
select = re.search(r"SELECT \* FROM read_parquet\(.*?\)\n", readme).group(0)
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
sequences = 0

for view, (file, time) in LOADED.items():
    db.execute("DROP VIEW IF EXISTS exported")
    db.execute(f"CREATE VIEW exported AS {select.replace('DIR', lake).replace('VIEW', view)}")
    columns = [row[0] for row in db.execute("DESCRIBE exported").fetchall()]
    assert set(OURS) <= set(columns), columns
    values = ", ".join(f'"{name}"' for name in columns if name not in OURS)
    time = f'"{time}"' if time else "TIMESTAMPTZ '2013-01-01 00:00:00+00'"
    ours = f"SELECT {values}, event_timestamp AS t FROM exported"
    theirs = f"SELECT {values}, CAST({time} AS TIMESTAMPTZ) AS t FROM '{flights}/{file}'"
    for one, other in ((ours, theirs), (theirs, ours)):
        left = db.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchone()[0]
        assert left == 0, f"{view}: {left} rows differ"
    count, distinct, wrong_day = db.execute(
        "SELECT count(*), count(DISTINCT sequence), "
        "count(*) FILTER (CAST(event_timestamp AS DATE) <> CAST(day AS DATE)) FROM exported"
    ).fetchone()
    assert count == distinct and wrong_day == 0, (view, count, distinct, wrong_day)
    frame = pyarrow.dataset.dataset(f"{lake}/view={view}", partitioning="hive").to_table()
    assert len(frame.to_pandas()) == count, view
    sequences += count
    print(f"{view}: {count} rows as loaded")

total = db.execute(
    f"SELECT count(DISTINCT sequence) FROM read_parquet('{lake}/*/*/*.parquet', union_by_name=true)"
).fetchone()[0]
assert total == sequences, (total, sequences)
print(f"DuckDB {duckdb.__version__} and pandas read {total} rows")
