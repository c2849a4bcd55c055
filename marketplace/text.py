"""What a name may be made of, and what it looks like to the eye.

Names of organizations, clusters and keys are shown to other people, so a name may not carry what
the eye cannot see (control, bidirectional and zero-width characters), may not start like a formula
of a spreadsheet, and may not mix scripts that share letter shapes. Two names that look alike are
one name: their skeletons are equal, and the database keeps skeletons unique.

The skeleton is a small rule, not Unicode's whole table of confusables: compatibility forms are
folded, case and accents dropped, Cyrillic and Greek letters replaced by the Latin ones they are
drawn like, digits that pass for letters too, and everything that is no letter or digit left out.
"""

import re
import unicodedata

from marketplace import errors

NAME_LENGTH_MAX = 80
SKELETON_LENGTH_MAX = 240

_LETTERS = ("Ll", "Lu", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Nl", "No")
_SIGNS = ("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sc", "Sm")
_CATEGORIES = frozenset({*_LETTERS, *_SIGNS})
_FORMULA_STARTS = ("=", "+", "-", "@")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?\Z")
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]"
)
_LOOK_ALIKE = str.maketrans(
    {
        **dict(zip("авегзіјкӏмнопрԛѕстухһԁԝё", "abergijklmhonpqsctyxhdwe", strict=True)),
        **dict(zip("αβεζηικνορτυχω", "abezniknoptyxw", strict=True)),
        **dict(zip("0135689|!", "olesbbgll", strict=True)),
    }
)
"""Cyrillic, Greek, and the digits and signs that pass for letters."""
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))


def parse_name(text: str, field: str = "name", *, length_max: int = NAME_LENGTH_MAX) -> str:
    """Return a name in normal form C.

    :raises Malformed: naming what the name must not have.
    """
    name = unicodedata.normalize("NFC", text)
    if not 1 <= len(name) <= length_max:
        raise _refused(field, "invalid_length", f"{field} has 1 to {length_max} characters")
    if name != name.strip() or "  " in name:
        raise _refused(field, "invalid_text", f"{field} has stray spaces")
    if name.startswith(_FORMULA_STARTS):
        raise _refused(field, "invalid_text", f"{field} may not start with one of = + - @")
    if _INVISIBLE.search(name) is not None or not all(map(_is_allowed, name)):
        raise _refused(field, "invalid_text", f"{field} has a character that is not allowed")
    if len(_scripts(name)) > 1:
        raise _refused(field, "mixed_scripts", f"{field} mixes alphabets that look alike")
    if not 1 <= len(skeleton(name)) <= SKELETON_LENGTH_MAX:
        raise _refused(field, "invalid_text", f"{field} has no letter or digit")
    return name


def spreadsheet_cell(value: object) -> str:
    """Return a cell of a CSV that no spreadsheet takes for a formula; numbers stay numbers."""
    cell = str(value)
    if cell.startswith((*_FORMULA_STARTS, "\t", "\r", "\n")) and not _NUMBER.match(cell):
        return f"'{cell}"
    return cell


def skeleton(name: str) -> str:
    """Return the name as the eye sees it; empty when nothing of it is a letter or a digit."""
    folded = unicodedata.normalize("NFKD", name).casefold().translate(_LOOK_ALIKE)
    text = "".join(char for char in folded if unicodedata.category(char)[0] in "LN")
    for pair, letter in _PAIRS:
        text = text.replace(pair, letter)
    return text.replace("i", "l")


def _is_allowed(char: str) -> bool:
    return char == " " or unicodedata.category(char) in _CATEGORIES


def _scripts(name: str) -> set[str]:
    """Return which of the alphabets that share letter shapes the name uses."""
    words = (unicodedata.name(char, "").split(" ")[0] for char in name if char.isalpha())
    return {
        word for word in words if word in ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")
    }


def _refused(field: str, code: str, detail: str) -> errors.Malformed:
    return errors.Malformed(detail, errors=[errors.FieldError(field=field, code=code)])
