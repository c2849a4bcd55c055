"""The kinds of entry in the calendar: their numbers are the order in which one instant is lived.

They stand apart from `calendar`, which performs them, because whoever enters one is called by it.
"""

from enum import IntEnum


class Entry(IntEnum):
    """Kinds of entry, in the order they are performed at one instant (RULEBOOK 2.6)."""

    TRADING_ENDS = 1
    UNCROSS = 2
    EXPIRE_DAY = 3
    MARK = 4
    NEW_DAY = 5
    LIST = 6
    MARK_ONE = 7
    EXPIRE = 8
    SWITCH = 9
    WATCH_MID = 10
    MARGIN_CALL = 11
    PURCHASE = 12
    TRANSFER = 13
