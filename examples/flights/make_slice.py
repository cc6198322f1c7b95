"""Cuts the slice of the flights data that lies beside this script, and what it must answer.

    python3 make_slice.py FOLDER      FOLDER holds flights.parquet, weather.parquet, planes.parquet
                                      as DESIGN.md section 10 describes them

Writes flights.parquet, weather.parquet, planes.parquet and expected.json beside itself. Needs
Python 3.11 and pyarrow (made with 26.0). The same input and pyarrow give the same bytes.

expected.json is computed by going through the slice row by row, without Larder and without any
index, so that the server can be compared with it.
"""

import json
import random
import sys
import tomllib
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

HERE = Path(__file__).parent
FLIGHTS_FROM = datetime(2013, 8, 12, tzinfo=timezone.utc)
WEATHER_FROM = FLIGHTS_FROM - timedelta(days=3)
END = datetime(2013, 9, 2, tzinfo=timezone.utc)
TAXIING = timedelta(minutes=60)
PLANES_KNOWN_FROM = "2013-01-01T00:00:00Z"
KEYS_PER_VIEW = 50
WEATHER_AS_OF = 200
OTHER_AS_OF = 60
SEED = 2013

# What to load, in this order: view, file, time column (event_timestamp unless named), and the
# event time of every row where the file has none.
LOADS = [
    {"view": "plane", "file": "planes.parquet", "event_time": PLANES_KNOWN_FROM},
    {"view": "weather", "file": "weather.parquet"},
    {"view": "last_flight_of_aircraft", "file": "flights.parquet"},
    {"view": "last_flight_on_route", "file": "flights.parquet"},
    {"view": "last_flight_of_carrier", "file": "flights.parquet"},
    {"view": "last_arrival_of_aircraft", "file": "flights.parquet", "timestamp": "landed_by"},
]


def late_by(name, one_in, longest_minutes):
    """How late the report called `name` arrives: most on time, one in `one_in` held up."""
    number = zlib.crc32(name.encode())
    if number % one_in:
        return timedelta()
    return timedelta(minutes=1 + number // one_in % longest_minutes)


def between(table, column, start, end):
    times = table[column]
    return table.filter(
        pc.and_(pc.greater_equal(times, pa.scalar(start)), pc.less(times, pa.scalar(end)))
    )


def in_order(table, keys):
    """The table sorted by one key per row; equal keys keep their order."""
    return table.take(pa.array(sorted(range(table.num_rows), key=keys.__getitem__)))


def cut_flights(flights):
    """Three weeks, in the order in which the finished records would have come in."""
    flights = between(flights, "scheduled", FLIGHTS_FROM, END)
    rows = flights.to_pylist()
    landed_by = [
        r["event_timestamp"] + timedelta(minutes=r["air_time_min"]) + TAXIING for r in rows
    ]
    flights = flights.append_column(
        "landed_by", pa.array(landed_by, type=flights.schema.field("event_timestamp").type)
    )
    names = [f"{r['tailnum']} {r['scheduled'].isoformat()}" for r in rows]
    return in_order(
        flights, [t + late_by(n, 40, 2 * 24 * 60) for t, n in zip(landed_by, names)]
    )


def cut_weather(weather):
    """The hours of those weeks and of the three days before, some reports held up for hours."""
    weather = between(weather, "event_timestamp", WEATHER_FROM, END)
    rows = weather.to_pylist()
    names = [f"{r['origin']} {r['event_timestamp'].isoformat()}" for r in rows]
    return in_order(
        weather,
        [r["event_timestamp"] + late_by(n, 20, 12 * 60) for r, n in zip(rows, names)],
    )


def cut_planes(planes, flights):
    """The aircraft of those flights, as far as the registry knows them."""
    return planes.filter(pc.is_in(planes["tailnum"], value_set=pc.unique(flights["tailnum"])))


def write(table, name):
    # Without metadata: pandas' note about its index says nothing here.
    pq.write_table(
        table.replace_schema_metadata(None),
        HERE / name,
        compression="zstd",
        compression_level=9,
        row_group_size=8192,
    )


# The lookups that README.md shows.
LOOKUPS = [
    {"entity_type": "tailnum", "entity_id": "N14228", "service": "aircraft"},
    {
        "entity_type": "route",
        "entity_id": {"origin": "JFK", "dest": "SFO"},
        "feature_names": [
            "last_flight_on_route:tailnum",
            "last_flight_on_route:scheduled",
            "last_flight_on_route:dep_delay_min",
            "last_flight_on_route:distance_mi",
        ],
    },
    {
        "entities": {
            "tailnum": "N711ZX",
            "carrier": "DL",
            "route": {"origin": "JFK", "dest": "SFO"},
            "origin": "JFK",
            "dest_airport": "SFO",
            "alternate_airport": "EWR",
        },
        "service": "departure_delay",
    },
    {
        "entity_type": "origin",
        "entity_id": "EWR",
        "feature_names": ["weather:temp", "weather:wind_speed", "weather:precip", "weather:visib"],
        "as_of": "2013-08-22T13:30:00Z",
    },
]


# What the slice must answer ----------------------------------------------------------------------


def rfc3339(value):
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class View:
    """One view of definitions.toml and the rows its load brings, in file order."""

    def __init__(self, load, definitions):
        view = definitions["view"][load["view"]]
        self.join_keys = definitions["entity"][view["entity"]]["join_keys"]
        self.defaults, self.types = {}, {}
        for name, feature in view["features"].items():
            feature = {"type": feature} if isinstance(feature, str) else feature
            self.defaults[name] = feature.get("default")
            self.types[name] = feature["type"]
        self.rows = []
        for row in pq.read_table(HERE / load["file"]).to_pylist():
            if "event_time" in load:
                time = datetime.fromisoformat(load["event_time"])
            else:
                time = row[load.get("timestamp", "event_timestamp")]
            key = tuple(row[k] for k in self.join_keys)
            self.rows.append((key, time, row))

    def as_of(self, key, time):
        """The last row with the newest event time not after `time`, or none."""
        newest = None
        for other, event_time, row in self.rows:
            known = other == key and (time is None or event_time <= time)
            if known and (newest is None or event_time >= newest[0]):
                newest = (event_time, row)
        return newest

    def answer(self, key, time=None):
        """What a lookup of every feature gives: a missing or null one is its default, and named."""
        newest = self.as_of(key, time)
        features, missing = {}, []
        for name, default in self.defaults.items():
            value = newest[1][name] if newest else None
            if value is None:
                missing.append(name)
                value = default
            elif self.types[name] == "timestamp":
                value = rfc3339(value)
            elif self.types[name].startswith("int"):
                value = int(value)
            features[name] = value
        return {
            "entity_id": self.entity_id(key),
            **({"as_of": rfc3339(time)} if time else {}),
            "event_timestamp": rfc3339(newest[0]) if newest else None,
            "features": features,
            "missing_features": missing,
        }

    def entity_id(self, key):
        return key[0] if len(key) == 1 else dict(zip(self.join_keys, key))

    def superseded(self):
        """Rows that are not online after a load into an empty view."""
        return len(self.rows) - len({key for key, _, _ in self.rows})


def random_time(rng, view, key):
    """Anywhere in the slice and a little around it; one in four at a row's time or just before."""
    times = [time for other, time, _ in view.rows if other == key]
    if times and rng.random() < 0.25:
        return rng.choice(times) - timedelta(microseconds=rng.randrange(2))
    span = int((END - WEATHER_FROM + timedelta(days=4)).total_seconds() * 1_000_000)
    return WEATHER_FROM - timedelta(days=2) + timedelta(microseconds=rng.randrange(span))


def lookup(views, definitions, request):
    """The answer to one request, and which of its names are missing."""
    entities = request.get("entities") or {request["entity_type"]: request["entity_id"]}
    if "service" in request:
        asked = definitions["service"][request["service"]]["features"]
    else:
        asked = request["feature_names"]
    time = datetime.fromisoformat(request["as_of"]) if "as_of" in request else None
    features, missing = {}, []
    for item in asked:
        item = {"ref": item} if isinstance(item, str) else item
        name = item.get("as", item["ref"])
        view_name, feature = item["ref"].split(":")
        key = entities[item.get("entity", definitions["view"][view_name]["entity"])]
        key = tuple(key.values()) if isinstance(key, dict) else (key,)
        answer = views[view_name].answer(key, time)
        features[name] = answer["features"][feature]
        if feature in answer["missing_features"]:
            missing.append(name)
    return {"features": features, "missing_features": missing}


def expectations():
    definitions = tomllib.loads((HERE / "definitions.toml").read_text())
    views = {load["view"]: View(load, definitions) for load in LOADS}
    rng = random.Random(SEED)
    loads, latest, as_of = [], {}, {}
    for load in LOADS:
        view = views[load["view"]]
        keys = sorted({key for key, _, _ in view.rows})
        loads.append(
            load
            | {"rows": len(view.rows), "entities": len(keys), "superseded": view.superseded()}
        )
        asked = rng.sample(keys, min(KEYS_PER_VIEW, len(keys)))
        unknown = ("ZZZ",) * len(view.join_keys)
        latest[load["view"]] = [view.answer(key) for key in [*asked, unknown]]
        count = WEATHER_AS_OF if load["view"] == "weather" else OTHER_AS_OF
        pairs = [(key, random_time(rng, view, key)) for key in rng.choices(keys, k=count)]
        as_of[load["view"]] = [view.answer(key, time) for key, time in pairs]
    return {
        "loads": loads,
        "lookups": [
            {"request": request, "answer": lookup(views, definitions, request)}
            for request in LOOKUPS
        ],
        "latest": latest,
        "as_of": as_of,
    }


def one_per_line(tree):
    """JSON with one entry per line, so that a change shows as the lines it touches."""
    sections = []
    for name, section in tree.items():
        if isinstance(section, list):
            lines = ",\n".join("    " + json.dumps(entry) for entry in section)
            sections.append(f'  "{name}": [\n{lines}\n  ]')
        else:
            groups = []
            for view, entries in section.items():
                lines = ",\n".join("      " + json.dumps(entry) for entry in entries)
                groups.append(f'    "{view}": [\n{lines}\n    ]')
            sections.append(f'  "{name}": {{\n' + ",\n".join(groups) + "\n  }")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    flights = cut_flights(pq.read_table(source / "flights.parquet"))
    write(flights, "flights.parquet")
    write(cut_weather(pq.read_table(source / "weather.parquet")), "weather.parquet")
    write(cut_planes(pq.read_table(source / "planes.parquet"), flights), "planes.parquet")
    (HERE / "expected.json").write_text(one_per_line(expectations()))


if __name__ == "__main__":
    main()
