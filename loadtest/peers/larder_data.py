"""The known data, as loadtest/src/data.rs computes it: a pure function of entity and feature."""

MASK = (1 << 64) - 1


def scatter(number):
    mixed = number & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def int64(entity, feature):
    """The value of an int64 feature, below 10^6."""
    return scatter((entity << 12) + feature + 1) % 1_000_000


def key(entity):
    return f"u{entity:08d}"


def feature_name(feature):
    return f"f{feature:03d}"


# The same three are asserted in Rust.
assert [int64(0, 0), int64(42, 3), int64(999_999, 9)] == [578_789, 145_401, 890_924]
