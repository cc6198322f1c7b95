"""Builds a Feast repository with the known data in its online store.

    feast_repo.py FOLDER sqlite|redis [HOST:PORT]

Run with the Python that has Feast. The features are those of scenarios/online-10-small.toml.
"""

import datetime
import os
import sys

import pandas
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Int64

import larder_data as data

ENTITIES = 10_000
FEATURES = 10
VIEW = "loadtest_small"
CHUNK = 2_000


def configuration(folder, kind, address):
    store = f"    type: sqlite\n    path: {folder}/online.db\n"
    if kind == "redis":
        store = f"    type: redis\n    connection_string: {address},db=1\n"
    return (
        f"project: loadtest\nprovider: local\nregistry: {folder}/registry.db\n"
        f"online_store:\n{store}"
        "offline_store:\n    type: file\nentity_key_serialization_version: 3\n"
    )


def rows(start, end, now):
    columns = {"id": [data.key(entity) for entity in range(start, end)]}
    for feature in range(FEATURES):
        columns[data.feature_name(feature)] = [
            data.int64(entity, feature) for entity in range(start, end)
        ]
    columns["event_timestamp"] = [now] * (end - start)
    return pandas.DataFrame(columns)


def main():
    folder, kind = os.path.abspath(sys.argv[1]), sys.argv[2]
    address = sys.argv[3] if len(sys.argv) > 3 else ""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/feature_store.yaml", "w", encoding="utf-8") as file:
        file.write(configuration(folder, kind, address))
    now = pandas.Timestamp(datetime.datetime.now(datetime.timezone.utc))
    rows(0, 10, now).to_parquet(f"{folder}/source.parquet")
    entity = Entity(name="loadtest", join_keys=["id"], value_type=ValueType.STRING)
    view = FeatureView(
        name=VIEW,
        entities=[entity],
        ttl=datetime.timedelta(days=0),
        schema=[Field(name=data.feature_name(f), dtype=Int64) for f in range(FEATURES)],
        source=FileSource(path=f"{folder}/source.parquet", timestamp_field="event_timestamp"),
        online=True,
    )
    store = FeatureStore(repo_path=folder)
    store.apply([entity, view])
    for start in range(0, ENTITIES, CHUNK):
        end = min(start + CHUNK, ENTITIES)
        store.write_to_online_store(VIEW, df=rows(start, end, now))
        print(f"feast: {end} of {ENTITIES} entities in {kind}", flush=True)


if __name__ == "__main__":
    main()
