"""What a format says and our records do not: the difference between two JSON documents, kept so that nothing is lost.

    rest = residue(rendered, original)          # None where they are equal
    restore(rendered, rest) == original

An importer keeps the residue with the run; an exporter restores it. A format is lossless by construction, however
little of it is understood, and records that grow later (a new verdict) still show in the export.
"""

from whet.core import Json

__all__ = ["residue", "restore", "same"]


def same(left: Json, right: Json) -> bool:
    """Returns whether two JSON values are equal, telling 1 from 1.0 and from true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return type(left) is type(right) and left == right


def residue(rendered: Json, original: Json) -> Json:
    """Returns what turns ``rendered`` into ``original``, or ``None`` where they are the same.

    ``{"is": value}`` replaces; ``{"keys": {key: residue}, "drop": [key]}`` changes an object; ``{"at": {index:
    residue}}`` changes elements of a list of the same length.
    """
    if same(rendered, original):
        return None
    if isinstance(rendered, dict) and isinstance(original, dict):
        return _of_objects(rendered, original)
    if isinstance(rendered, list) and isinstance(original, list) and len(rendered) == len(original):
        parts = [residue(a, b) for a, b in zip(rendered, original, strict=True)]
        return {"at": {str(i): part for i, part in enumerate(parts) if part is not None}}
    return {"is": original}


def _of_objects(rendered: dict[str, Json], original: dict[str, Json]) -> Json:
    keys = {
        key: residue(rendered[key], value) if key in rendered else {"is": value}
        for key, value in original.items()
        if key not in rendered or not same(rendered[key], value)
    }
    drop: list[Json] = [*sorted(rendered.keys() - original.keys())]
    changed: dict[str, Json] = {}
    if keys:
        changed["keys"] = keys
    if drop:
        changed["drop"] = drop
    return changed


def restore(rendered: Json, rest: Json) -> Json:
    """Returns the original document; ``rendered`` may have grown since the residue was taken."""
    if not isinstance(rest, dict):
        return rendered
    if "is" in rest:
        return rest["is"]
    if isinstance(rendered, list) and isinstance(at := rest.get("at"), dict):
        return [restore(value, at.get(str(i))) for i, value in enumerate(rendered)]
    if not isinstance(rendered, dict):
        return rendered
    drop, keys = rest.get("drop", []), rest.get("keys", {})
    assert isinstance(drop, list)
    assert isinstance(keys, dict)
    kept = {key: restore(value, keys.get(key)) for key, value in rendered.items() if key not in drop}
    return kept | {key: restore(None, value) for key, value in keys.items() if key not in rendered}
