"""An order of the slow market (`tests.slow_market`), as plain as can be."""

from dataclasses import dataclass

from exchange import commands
from exchange.commands import CANCEL_NEWEST, IOC, LIMIT, MARKET


@dataclass(eq=False)
class SlowOrder:
    """An order; `shown` is the part of what is left that others can see."""

    id: int
    account: int
    group: int
    side: int
    price: int
    lots: int
    time_in_force: str
    type: str = LIMIT
    stop: int = 0
    display: int = 0
    minimum: int = 0
    expires_at: int = 0
    post_only: bool = False
    reduce_only: bool = False
    is_late: bool = False
    """Whether its time was up in the frozen part of a call."""
    mode: str = CANCEL_NEWEST
    filled: int = 0
    shown: int = 0

    @property
    def left(self) -> int:
        return self.lots - self.filled

    def show(self) -> None:
        """Show as much as the order shows at a time."""
        self.shown = min(self.display or self.left, self.left)


def order_of(number: int, group: int, command: commands.PlaceOrder) -> SlowOrder:
    """Return the order that a command asks for."""
    terms = command.terms or commands.Terms()
    return SlowOrder(
        id=number,
        account=command.account,
        group=group,
        side=command.side,
        price=command.price,
        lots=command.lots,
        time_in_force=(
            IOC
            if terms.type == MARKET and command.time_in_force == commands.GTC
            else command.time_in_force
        ),
        type=terms.type,
        stop=terms.stop_price,
        display=terms.display_lots,
        minimum=terms.min_lots,
        expires_at=terms.expires_at,
        post_only=terms.post_only,
        reduce_only=terms.reduce_only,
        mode=terms.prevention,
    )
