"""Every record and key that crosses the wire, and the protocol version.

A request from the server names study, run and round, and brings the global model; a site answers
with one vector. Nothing else is sent, in particular no code. The records are Flower's; no other
module knows their keys. Shapes: P = model parameters, L = metric counts, S = summed statistics.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from wardround_shared.arrays import from_message, to_message
from wardround_shared.digests import FieldDigest
from wardround_shared.errors import ProtocolError

PROTOCOL_VERSION = 1

HELLO = "query.hello"
CLASS_COUNTS = "query.class_counts"
STATISTICS = "query.statistics"
TRAIN = "train"
EVALUATE = "evaluate"
# Exchanges of secure aggregation beside those above; see docs/protocol.md.
KEYS = "query.keys"
CONFIRM = "query.confirm"
UNMASK = "query.unmask"

# Parts of secure aggregation that a message may carry, each an encoded message of the protocol.
KEYS_REQUEST = "keys-request"
ADVERTISEMENT = "advertisement"
ADVERTISEMENTS = "advertisements"
SEALED_SHARES = "sealed-shares"
MASK_REQUEST = "mask-request"
MASKED_VECTOR = "masked-vector"
SURVIVORS = "survivors"
CONFIRMATION = "confirmation"
UNMASK_REQUEST = "unmask-request"
UNMASK_ANSWER = "unmask-answer"

MAX_FITTED_STEPS = 64
"""Most fitted preprocessing steps that a request may claim; no study comes near it."""

Floats = NDArray[np.float64]
Shapes = tuple[tuple[int, ...], ...]
Fitted = tuple[Mapping[str, NDArray[np.generic]], ...]

T = TypeVar("T", bool, int, float, str)
F = TypeVar("F", np.float32, np.float64)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What every request says first: which study, which run, which round (0 before the first)."""

    study_id: str
    run: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """A site's answer to the first message.

    Attributes:
        site: its name.
        software: the version of wardround it runs.
        shapes: of one decoded example, per part; the same at every site of a study.
    """

    site: str
    software: str
    shapes: Shapes


@dataclass(frozen=True, kw_only=True)
class GlobalModel:
    """The model a round starts from.

    Attributes:
        parameters: float32 [P], the flattened parameters.
        fitted: preprocessing constants fitted on sums over all sites, one mapping a step.
        class_counts: float64 [K], training examples of each class over all sites.
        control: float32 [P], the control variate over all sites, of a request to train in a study
            with scaffold; None otherwise.
        counted: with `control`, site -> the last round whose sum has this site's update in it; a
            site that is not there is in none.
    """

    parameters: NDArray[np.float32]
    fitted: Fitted
    class_counts: Floats
    control: NDArray[np.float32] | None = None
    counted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Update:
    """The one vector a site contributes: [model delta x weight, weight, metric counts].

    Attributes:
        delta: float32 [P], model delta times weight.
        weight: number of training examples.
        counts: float64 [L], metric counts of the received model on the validation split.
    """

    delta: NDArray[np.float32]
    weight: float
    counts: Floats


def header_record(header: Header) -> RecordDict:
    """Content of a request that brings no model."""
    return RecordDict(
        {
            "header": ConfigRecord(
                {
                    "protocol": PROTOCOL_VERSION,
                    "study-id": header.study_id,
                    "run": header.run,
                    "round": header.round,
                }
            )
        }
    )


def read_header(content: RecordDict) -> Header:
    """Header of a request.

    Raises:
        ProtocolError: malformed, or of another protocol version.
    """
    record = _config(content, "header")
    version = _value(record, "protocol", int)
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"The server speaks protocol version {version}, this site version {PROTOCOL_VERSION}; "
            "install the same release of wardround on both sides."
        )
    _require_names(record, {"protocol", "study-id", "run", "round"}, "header")
    return Header(
        study_id=_value(record, "study-id", str),
        run=_value(record, "run", str),
        round=_value(record, "round", int),
    )


def greeting_record(greeting: Greeting) -> RecordDict:
    """Content of the answer to `HELLO`."""
    return RecordDict(
        {
            "greeting": ConfigRecord(
                {
                    "protocol": PROTOCOL_VERSION,
                    "site": greeting.site,
                    "software": greeting.software,
                    "shapes": shapes_text(greeting.shapes),
                }
            )
        }
    )


def read_greeting(content: RecordDict) -> Greeting:
    """A site's greeting.

    Raises:
        ProtocolError: malformed, or of another protocol version.
    """
    record = _config(content, "greeting")
    version = _value(record, "protocol", int)
    site = _value(record, "site", str)
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"Site {site} speaks protocol version {version}, this server {PROTOCOL_VERSION}; "
            "install the same release of wardround on both sides."
        )
    return Greeting(
        site=site,
        software=_value(record, "software", str),
        shapes=read_shapes(_value(record, "shapes", str)),
    )


def shapes_text(shapes: Shapes) -> str:
    """Shapes as text: `1,28,28;4` for an image with four static features."""
    return ";".join(",".join(map(str, shape)) for shape in shapes)


def read_shapes(text: str) -> Shapes:
    """The inverse of `shapes_text`.

    Raises:
        ProtocolError: malformed.
    """
    try:
        shapes = tuple(tuple(int(d) for d in part.split(",")) for part in text.split(";"))
    except ValueError as error:
        raise ProtocolError(f"A message is malformed: {text[:40]!r} are no shapes.") from error
    if not all(0 < size <= 2**31 for shape in shapes for size in shape):
        raise ProtocolError(f"A message is malformed: {text[:40]!r} are no shapes.")
    return shapes


def model_record(header: Header, model: GlobalModel) -> RecordDict:
    """Content of `TRAIN`, `EVALUATE` and `STATISTICS` requests."""
    content = header_record(header)
    content["model"] = ArrayRecord(
        {
            "parameters": to_message(np.asarray(model.parameters, dtype=np.float32)),
            "class-counts": to_message(np.asarray(model.class_counts, dtype=np.float64)),
        }
    )
    content["fitted"] = ArrayRecord(
        {
            f"{step}.{key}": to_message(np.asarray(value))
            for step, constants in enumerate(model.fitted)
            for key, value in constants.items()
        }
    )
    content["recipe"] = ConfigRecord({"fitted-steps": len(model.fitted)})
    if model.control is not None:
        content["control"] = ArrayRecord({"control": to_message(model.control)})
        content["counted"] = ConfigRecord(dict(model.counted))
    return content


def sent_parameters(content: RecordDict) -> NDArray[np.float32]:
    """The parameters in one's own `model_record`: a view, so that they are in memory once."""
    return cast("NDArray[np.float32]", _arrays(content, "model")["parameters"])


def read_model(content: RecordDict) -> GlobalModel:
    """The global model of a request.

    Raises:
        ProtocolError: malformed, with a name that is unknown or missing, or with a parameter or
            class count that is not finite. Names, shapes and values of `fitted` are known to the
            study only, and checked where the study is (`wardround_client.received`).
    """
    arrays, recipe = _arrays(content, "model"), _config(content, "recipe")
    _require_names(arrays, {"parameters", "class-counts"}, "model")
    _require_names(recipe, {"fitted-steps"}, "recipe")
    steps = _value(recipe, "fitted-steps", int)
    if not 0 <= steps <= MAX_FITTED_STEPS:
        raise ProtocolError(f"A message is malformed: it claims {steps} fitted steps.")
    constants: list[dict[str, NDArray[np.generic]]] = [{} for _ in range(steps)]
    for name, array in _arrays(content, "fitted").items():
        place, _, key = name.partition(".")
        # One name for each constant: "00.mean" would be another name for "0.mean".
        if place not in {str(step) for step in range(steps)} or not key:
            raise ProtocolError("A message is malformed: a fitted constant belongs to no step.")
        constants[int(place)][key] = array
    control, counted = _read_control(content)
    return GlobalModel(
        parameters=_vector(arrays, "parameters", np.float32),
        fitted=tuple(constants),
        class_counts=_vector(arrays, "class-counts", np.float64),
        control=control,
        counted=counted,
    )


def _read_control(content: RecordDict) -> tuple[NDArray[np.float32] | None, dict[str, int]]:
    """The control variate of a request and who is in it; none where it brings neither."""
    if "control" not in content and "counted" not in content:
        return None, {}
    arrays, record = _arrays(content, "control"), _config(content, "counted")
    _require_names(arrays, {"control"}, "control")
    counted = {site: _value(record, site, int) for site in record}
    if any(number < 1 for number in counted.values()):
        raise ProtocolError("A message is malformed: an update was counted in no round.")
    return _vector(arrays, "control", np.float32), counted


def update_record(update: Update) -> RecordDict:
    """Content of the answer to `TRAIN`."""
    return RecordDict(
        {
            "update": ArrayRecord(
                {
                    "delta": to_message(update.delta),
                    "weight": to_message(np.array([update.weight])),
                    "counts": to_message(update.counts),
                }
            )
        }
    )


def read_update(content: RecordDict) -> Update:
    """A site's update.

    Raises:
        ProtocolError: malformed, or with values that are not finite.
    """
    arrays = _arrays(content, "update")
    weight = _vector(arrays, "weight", np.float64)
    if weight.shape != (1,) or weight[0] < 0:
        raise ProtocolError("A site's update is malformed: its weight is not one number >= 0.")
    return Update(
        delta=_vector(arrays, "delta", np.float32),
        weight=float(weight[0]),
        counts=_vector(arrays, "counts", np.float64),
    )


def sums_record(sums: Floats) -> RecordDict:
    """Content of the answer to `STATISTICS` (summed statistics) and `EVALUATE` (counts)."""
    return RecordDict({"sums": ArrayRecord({"sums": to_message(sums)})})


def read_sums(content: RecordDict) -> Floats:
    """Summed statistics or metric counts of one site.

    Raises:
        ProtocolError: malformed, or with values that are not finite.
    """
    return _vector(_arrays(content, "sums"), "sums", np.float64)


def add_secure(content: RecordDict, parts: Mapping[str, bytes]) -> RecordDict:
    """The content with encoded messages of secure aggregation beside it; arrays are shared."""
    extended = RecordDict(dict(content))
    # As arrays, since a masked vector is as large as the model and travels like it.
    extended["secure"] = ArrayRecord(
        {name: to_message(np.frombuffer(part, dtype=np.uint8)) for name, part in parts.items()}
    )
    return extended


def read_secure(content: RecordDict) -> dict[str, bytes]:
    """The encoded messages of secure aggregation in a message; none if there are none.

    Raises:
        ProtocolError: malformed.
    """
    if "secure" not in content:
        return {}
    parts = _arrays(content, "secure")
    if any(part.dtype != np.uint8 or part.ndim != 1 for part in parts.values()):
        raise ProtocolError("A message is malformed: secure aggregation sends bytes only.")
    return {name: part.tobytes() for name, part in parts.items()}


def request_digest(message_type: str, header: Header, model: GlobalModel) -> bytes:
    """SHA-256 over all that a site takes from a request beside secure aggregation.

    It is taken of what was understood and not of what was sent, so that two requests with one
    digest are one request to whoever answers them: a server that tells sites different things
    gets masks that do not cancel.

    Args:
        message_type: of the request.
        header: as read.
        model: as read.
    """
    digest = FieldDigest("wardround/request/2")
    for text in (message_type, header.study_id, header.run):
        digest.text(text)
    digest.number(header.round)
    digest.array(model.parameters)
    digest.array(model.class_counts)
    digest.number(len(model.fitted))
    for constants in model.fitted:
        digest.number(len(constants))
        for name, array in sorted(constants.items()):
            digest.text(name)
            digest.array(array)
    if model.control is not None:
        digest.array(model.control)
        digest.number(len(model.counted))
        for site, number in sorted(model.counted.items()):
            digest.text(site)
            digest.number(number)
    return digest.digest()


def _config(content: RecordDict, name: str) -> ConfigRecord:
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError(f"A message is malformed: it has no record {name!r}.")
    return record


def _require_names(found: Collection[str], expected: Collection[str], record: str) -> None:
    """A name that nobody reads would be a place for whatever the other side does not see."""
    if set(found) != set(expected):
        raise ProtocolError(
            f"A message is malformed: the names in its record {record!r} are not those of this "
            "version of the protocol."
        )


def _value(record: ConfigRecord, key: str, kind: type[T]) -> T:
    value = record.get(key)
    if not isinstance(value, kind):
        raise ProtocolError(f"A message is malformed: {key!r} is missing or no {kind.__name__}.")
    return value


def _arrays(content: RecordDict, name: str) -> dict[str, NDArray[np.generic]]:
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        raise ProtocolError(f"A message is malformed: it has no arrays {name!r}.")
    return {key: from_message(array) for key, array in record.items()}


def _vector(arrays: Mapping[str, NDArray[np.generic]], name: str, kind: type[F]) -> NDArray[F]:
    array = arrays.get(name)
    if array is None or array.ndim != 1 or array.dtype != kind:
        raise ProtocolError(f"A message is malformed: {name!r} is no vector of {kind.__name__}.")
    if not np.isfinite(array).all():
        raise ProtocolError(f"A message is refused: {name!r} holds a value that is not finite.")
    return cast("NDArray[F]", array)
