"""Reading a study file: parsed, overridden and checked once, at the edge."""

import copy
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from wardround_shared.errors import StudyError
from wardround_shared.study.combinations import check_combinations
from wardround_shared.study.document import Study


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: the TOML file.
        overrides: `section.key=value` each, applied before the check; the value is TOML, and a
            value that is no TOML is taken as text.

    Raises:
        StudyError: naming file, key, value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: the study file cannot be read ({error}).") from error
    return parse_study(text, origin=str(path), overrides=overrides)


def parse_study(text: str, *, origin: str, overrides: Sequence[str] = ()) -> Study:
    """Check the text of a study file; `origin` names it in errors.

    Private training wants other settings than plain training (larger batches, less noise to fit).
    What stands under `[private]`, for example `[private.training]`, takes the place of the
    study's own keys while `privacy.mechanism` is not `none`. Overrides come last. A fault under
    `[private]` is refused whether it is in force or not.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{origin}: this is not a TOML file ({error}).") from error
    private = content.pop("private", {})
    if not isinstance(private, dict):
        raise StudyError(f"{origin}: private: this must be a section, [private.training] say.")
    if private:
        _check_private(content, private, origin)
    mechanism = _mechanism(content, overrides)
    if mechanism != "none":
        _merge(content, private)
    for override in overrides:
        _override(content, override)
    return check_study(content, origin=origin)


def has_private_settings(path: Path) -> bool:
    """Whether a study file that `load_study` takes has settings for private training of its own."""
    return bool(tomllib.loads(path.read_text(encoding="utf-8")).get("private"))


def check_study(content: dict[str, Any], *, origin: str) -> Study:
    """Check a study given as nested dictionaries.

    Raises:
        StudyError: a key or value is wrong, or a combination impossible.
    """
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{origin}: {_first_fault(error)}") from error
    check_combinations(study, origin)
    return study


def _mechanism(content: dict[str, Any], overrides: Sequence[str]) -> object:
    """The mechanism that will be in force once the overrides are applied."""
    trial: dict[str, Any] = {"privacy": dict(_table(content.get("privacy")))}
    for override in overrides:
        if override.partition("=")[0].strip() == "privacy.mechanism":
            _override(trial, override)
    return trial["privacy"].get("mechanism")


def _check_private(content: dict[str, Any], private: dict[str, Any], origin: str) -> None:
    """Refuse a fault of what stands under `[private]`; other faults are left to the study's check.

    Overrides are left out: one that is meant for plain training need not suit private training.
    """
    merged = copy.deepcopy(content)
    _merge(merged, private)
    try:
        Study.model_validate(merged)
    except ValidationError as error:
        for fault in error.errors():
            path = _path(fault["loc"])
            if _stands_in(private, path):
                raise StudyError(
                    f"{origin}: private.{'.'.join(path)}: {_wording(fault)}."
                ) from error


def _stands_in(content: dict[str, Any], path: Sequence[str]) -> bool:
    place: object = content
    for part in path:
        if not isinstance(place, dict):
            return True  # inside a list, which stands there as a whole
        if part not in place:
            return False
        place = place[part]
    return True


def _merge(content: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put `changes` over `content`, tables merged, everything else replaced.

    A table of another `name` or `source` is another kind of thing: it is replaced as a whole.
    """
    for key, value in changes.items():
        same_kind = isinstance(value, dict) and not any(
            tag in value and _table(content.get(key)).get(tag) != value[tag]
            for tag in ("name", "source")
        )
        if same_kind and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise StudyError(f"--set {override}: write it as section.key=value.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    place = content
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise StudyError(f"--set {override}: {part} is not a section of the study.")
    place[parts[-1]] = parsed


def _first_fault(error: ValidationError) -> str:
    """One sentence about the first fault: key, value, what is allowed."""
    fault = error.errors()[0]
    key = ".".join(_path(fault["loc"])) or "study"
    more = error.error_count() - 1
    rest = f" ({more} more after this one)" if more else ""
    return f"{key}: {_wording(fault)}{rest}."


def _path(location: tuple[int | str, ...]) -> list[str]:
    """The key's path as the file has it: pydantic adds the tag of a union, which is no key."""
    parts = [str(part) for part in location]
    if parts[0] in {"data", "model"}:
        del parts[1:2]
    elif parts[0] == "preprocessing":
        del parts[3:4]
    return parts


def _wording(fault: ErrorDetails) -> str:
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return "there is no such key; check its spelling against docs/study-file.md"
    if kind == "missing":
        return "this key is required"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error":
        return message
    return f"{json.dumps(given, default=str)[:80]} is not allowed here, {message}"
