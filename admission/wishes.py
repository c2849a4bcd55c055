"""What a caller wishes for in headers of our own: class, overflow, substitutes, nonce; and more.

A header that is not there leaves it to the request's service tier and to the key.
"""

from admission import dialect, receipts
from admission.decisions import Overflow, ServiceClass
from admission.snapshot import Grade, Snapshot
from marketplace import keys

SUBSTITUTES_MAX = 8


def class_of(header: str, call: dialect.Call, key: keys.Key) -> ServiceClass:
    """Return the class a request asks for: the header's, the service tier's, or the key's.

    :raises Refused: when the header names none.
    """
    name = header.upper() or call.tier_class or key.default_class
    if name not in ServiceClass.__members__:
        raise dialect.Refused(
            "x-baseload-class is one of P0, P1, P2 and P3.",
            code="invalid_value",
            param="x-baseload-class",
        )
    return ServiceClass[name]


def substitutes_of(header: str, asked: Grade, snapshot: Snapshot) -> tuple[Grade, ...]:
    """Return the grades that may serve in the stead of the one asked for, each once.

    :raises Refused: when one is not known, or they are too many.
    """
    names = [name.strip() for name in header.split(",")] if header else []
    grades = [snapshot.grade(name) for name in names]
    found = {grade.code: grade for grade in grades if grade is not None}
    if None in grades or len(names) > SUBSTITUTES_MAX:
        raise dialect.Refused(
            f"x-baseload-substitutes is at most {SUBSTITUTES_MAX} models of GET /v1/models,"
            " with commas between.",
            code="invalid_value",
            param="x-baseload-substitutes",
        )
    return tuple(grade for code, grade in found.items() if code != asked.code)


def nonce_of(header: str) -> str:
    """Return the caller's nonce.

    :raises Refused: when it is too long, or not ASCII.
    """
    if len(header) > receipts.NONCE_BYTES_MAX or not (header.isascii() and header.isprintable()):
        raise dialect.Refused(
            f"x-baseload-nonce is at most {receipts.NONCE_BYTES_MAX} printable ASCII characters.",
            code="invalid_value",
            param="x-baseload-nonce",
        )
    return header


def is_retry(header: str) -> bool:
    """Whether a client says that it has sent the request before, as OpenAI's own does."""
    return header.isdecimal() and header.isascii() and header.strip("0") != ""


def overflow_of(header: str, key: keys.Key) -> Overflow:
    """Return what is done beyond the level: the header's word, or the key's.

    :raises Refused: when the header names nothing.
    """
    name = header.upper() or key.overflow.upper()
    if name not in Overflow.__members__:
        raise dialect.Refused(
            "x-baseload-overflow is one of spill, reject and queue.",
            code="invalid_value",
            param="x-baseload-overflow",
        )
    return Overflow[name]
