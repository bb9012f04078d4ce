#!/usr/bin/env python3
"""Checks Grafana dashboards against Grafana's own schema.

    PYTHONPATH=.grafana-types python3 scripts/check_dashboards.py FILE...

The schema is the set of types that Grafana publishes, generated from it, in the package
grafana-foundation-sdk (`scripts/setup.sh --monitoring` puts it into .grafana-types). A dashboard is
read into these types. What they have no field for would be lost: each field that does not come back
is an error. So is a value of another type than its field's.
"""

import enum
import json
import sys
import typing

from grafana_foundation_sdk.cog import plugins, variants
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard


def lost(given, kept, path):
    """Fields of `given` that are not in `kept`, or are something else there."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key}: there is no such field"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (value, other) in enumerate(zip(given, kept)):
            yield from lost(value, other, f"{path}[{index}]")
    elif given != kept:
        yield f"{path}: {given!r} is read as {kept!r}"


def fits(value, hint):
    """Whether `value` is of the type `hint`, without looking into objects."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (typing.Any, object):
        return True
    if origin is typing.Union:
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(value is argument or value == argument for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if hint is variants.Dataquery:
        return hasattr(value, "to_json")
    # Some parts are left as they are read.
    return isinstance(value, hint) or (isinstance(value, dict) and hasattr(hint, "from_json"))


def misfits(value, path):
    """Values inside `value` that are not of their field's type."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(item, f"{path}[{index}]")
    elif hasattr(value, "to_json"):
        hints = typing.get_type_hints(type(value))
        for name, item in vars(value).items():
            if name in hints and not fits(item, hints[name]):
                yield f"{path}.{name}: {item!r} is not {hints[name]}"
            yield from misfits(item, f"{path}.{name}")


def problems(given):
    """What is wrong with a dashboard."""
    read = dashboard.Dashboard.from_json(given)
    kept = json.loads(json.dumps(read, cls=JSONEncoder))
    yield from lost(given, kept, "dashboard")
    yield from misfits(read, "dashboard")


def main(paths):
    plugins.register_default_plugins()
    found = 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for problem in problems(json.load(file)):
                print(f"{path}: {problem}")
                found += 1
    print(f"{len(paths)} dashboards, {found} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
