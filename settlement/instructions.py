"""Commands to the machine that are rows: everything but orders and cancels.

An instruction is written in the transaction that causes it, carries a deterministic id, and is
applied by the engine exactly once, in one total order with the orders. Amounts are micro-USD, times
microseconds since the epoch, prices ticks, tokens mNTU.
"""

from typing import Literal

import msgspec


class Instruction(msgspec.Struct, frozen=True, tag_field="kind", kw_only=True):
    """Base of every instruction; the tag names its kind in the stored body."""


class OpenAccount(Instruction, frozen=True, tag="open_account"):
    """Make an organization known to the machine; `group` is its beneficial-owner group."""

    account: int
    group: int


class DefineGrade(Instruction, frozen=True, tag="define_grade"):
    """List a grade, or change its terms from now on; hours are listed from its first day on."""

    grade: str
    reference_price_ticks: int
    maker_fee_bp: int = 2
    taker_fee_bp: int = 20
    band_percent: int = 15
    dynamic_percent: int = 5
    slot_reference_ticks: tuple[int, int] = (0, 0)
    """Of P0 and P1 slots; 0 lists none."""
    premium_percents: tuple[int, int] = (0, 0)
    """Of caps and cover, of their month's mark; 0 lists none."""


class Deposit(Instruction, frozen=True, tag="deposit"):
    """Credit cash that has arrived."""

    account: int
    amount_micros: int


class Withdraw(Instruction, frozen=True, tag="withdraw"):
    """Pay out cash; refused beyond what is withdrawable."""

    account: int
    amount_micros: int


class Certify(Instruction, frozen=True, tag="certify"):
    """Set the certified rate of a cluster, effective at once; zero withdraws it.

    Of its lots at most `p0_lots` may be sold as P0 and `timed_lots` as P0 or P1; -1 leaves that to
    the shares that hold for all (`settlement.delivery`).
    """

    cluster: int
    account: int
    grade: str
    lots: int
    valid_until: int
    p0_lots: int = -1
    timed_lots: int = -1


class CoverLine(msgspec.Struct, frozen=True, array_like=True):
    """What of an allocation another cluster delivered, by its standing offer (RULEBOOK 6.6)."""

    offer: int
    cluster: int
    seller: int
    price_ticks: int
    mntu: int


class DeliveryLine(msgspec.Struct, frozen=True, array_like=True):
    """What one allocation saw in an interval, in mNTU; what was covered is delivered too."""

    allocation: int
    available_mntu: int
    short_mntu: int
    delivered_mntu: int
    covers: tuple[CoverLine, ...] = ()


class SettleInterval(Instruction, frozen=True, tag="settle_interval"):
    """Settle one five-minute interval of a grade; `suspended` returns the escrow."""

    grade: str
    hour_starts_at: int
    interval: int
    lines: tuple[DeliveryLine, ...] = ()
    suspended: bool = False


class ReserveUsage(Instruction, frozen=True, tag="reserve_usage"):
    """Hold cash for pay-as-you-go tokens of one organization, grade and hour."""

    account: int
    grade: str
    hour_starts_at: int
    amount_micros: int


class ChargeUsage(Instruction, frozen=True, tag="charge_usage"):
    """Post pay-as-you-go tokens of a finished interval from the hold, to the cluster's owner.

    The last charge of an hour has `release` set: what is left of the hold is given back.
    """

    account: int
    seller: int
    grade: str
    hour_starts_at: int
    interval: int
    mntu: int
    release: bool = False
    idle: tuple[tuple[int, int], ...] = ()
    """(account, mNTU): holders on whose unused rate so much of it was served, in order."""


class Halt(Instruction, frozen=True, tag="halt"):
    """Stop trading of an instrument, a grade or everything."""

    instrument: str = ""
    grade: str = ""
    reason: str = ""


class Resume(Instruction, frozen=True, tag="resume"):
    """Let trading go on."""

    instrument: str = ""
    grade: str = ""


class KillSwitch(Instruction, frozen=True, tag="kill_switch"):
    """Cancel all orders of an organization and refuse new ones, or lift that."""

    account: int
    enabled: bool


CORRECTION_LINES_MAX = 10_000
"""Allocations in one instruction; an hour that has more takes several."""
RUN_MAX = 40
"""Characters of a run's name, which stands in the cause of its transfers."""


class CorrectionLine(msgspec.Struct, frozen=True, array_like=True):
    """What a run adds to what an allocation has paid: signed micro-USD to its holder.

    `due_micros` is what more (or less) is due as damages, `damages_micros` what of it is to move.
    Lots and `price_ticks`, the higher price that the hour was settled by, bound all three.
    """

    allocation: int
    holder: int
    seller: int
    lots: int
    price_ticks: int
    delivery_micros: int
    due_micros: int
    damages_micros: int


class CorrectDelivery(Instruction, frozen=True, tag="correct_delivery"):
    """Post the differences that a run found in an hour that is settled, in order of allocation."""

    run: str
    grade: str
    hour_starts_at: int
    lines: tuple[CorrectionLine, ...]


class InsuranceLine(msgspec.Struct, frozen=True, array_like=True):
    """What a run adds to what an hour of an option has paid an account: signed micro-USD to it.

    Its lots, held or written, bound it.
    """

    account: int
    lots: int
    amount_micros: int


class CorrectInsurance(Instruction, frozen=True, tag="correct_insurance"):
    """Post the differences that a run found in an hour of an option; they add up to zero.

    `pay_ticks` is what cover pays, 0 of a cap; lines are in order of account.
    """

    run: str
    instrument: str
    hour_starts_at: int
    pay_ticks: int
    lines: tuple[InsuranceLine, ...]


class OverrideIndex(Instruction, frozen=True, tag="override_index"):
    """Correct the index of an hour from `version` on; two operators' organizations have agreed."""

    grade: str
    hour_starts_at: int
    version: int
    price_ticks: int
    reason: str
    proposed_by: int
    confirmed_by: int


class HoldWithdrawal(Instruction, frozen=True, tag="hold_withdrawal"):
    """Hold cash to be paid out; refused beyond what is withdrawable. Its id is the hold's."""

    account: int
    amount_micros: int


class PostWithdrawal(Instruction, frozen=True, tag="post_withdrawal"):
    """Pay out what was held, or a part of it: the rest is free again."""

    account: int
    hold: str
    amount_micros: int


class VoidWithdrawal(Instruction, frozen=True, tag="void_withdrawal"):
    """Give back what was held to be paid out."""

    account: int
    hold: str


class PayInsurance(Instruction, frozen=True, tag="pay_insurance"):
    """Pay an hour's price caps and release what was set aside for it, of caps and of cover.

    `metered` are (account, mNTU): what each holder used of the grade in that hour, entitled or not.
    """

    grade: str
    hour_starts_at: int
    metered: tuple[tuple[int, int], ...] = ()


class CommitPurchase(Instruction, frozen=True, tag="commit_purchase"):
    """Join the pool that buys an instrument at a deadline, with lots and a limit price."""

    commitment: int
    account: int
    instrument: str
    deadline: int
    lots: int
    price_ticks: int


class WithdrawCommitment(Instruction, frozen=True, tag="withdraw_commitment"):
    """Take a commitment to a pool back before its deadline."""

    commitment: int
    account: int


class SetLayer(Instruction, frozen=True, tag="set_layer"):
    """Set what the exchange's own layer of the waterfall bears at most, from now on.

    What it has borne already stays borne, also where that is more.
    """

    limit_micros: int


class BuyPackage(Instruction, frozen=True, tag="buy_package"):
    """Buy a package of a seller's hourly lots on the terms of its listing, paid in full at once.

    Lots are a pattern: one number, 24 by the hour of the day, or 168 by that of the week, UTC. Of
    them `p1_lots` are served as P1. The listing is suspended by its list price, which the price is
    a discount of.
    """

    listing: int
    seller: int
    buyer: int
    grade: str
    starts_at: int
    ends_at: int
    lots: tuple[int, ...]
    price_ticks: int
    list_price_ticks: int
    p1_lots: tuple[int, ...] = ()


class ResellPackage(Instruction, frozen=True, tag="resell_package"):
    """Sell a slice of a package on: so many lots of every hour of a range, for cash.

    The slice becomes a package of its own, at the price that its seller is paid for delivery.
    """

    package: int
    holder: int
    buyer: int
    starts_at: int
    ends_at: int
    lots: tuple[int, ...]
    price_ticks: int
    fee_bp: int
    p1_lots: tuple[int, ...] = ()


class AnchorReceipts(Instruction, frozen=True, tag="anchor_receipts"):
    """Note a signed head of the log of receipts: so many leaves, and their root in hexadecimal."""

    size: int
    root: str
    at: int


class BidTransfer(Instruction, frozen=True, tag="bid_transfer"):
    """Offer to be short, at a price, of lots whose seller has not met its margin call.

    It takes the place of the account's last bid for them.
    """

    bid: int
    account: int
    transfer: int
    lots: int
    price_ticks: int


class WithdrawBid(Instruction, frozen=True, tag="withdraw_bid"):
    """Take a bid for a position back before its deadline."""

    bid: int
    account: int


AnyInstruction = (
    OpenAccount
    | DefineGrade
    | Deposit
    | Withdraw
    | Certify
    | SettleInterval
    | ReserveUsage
    | ChargeUsage
    | Halt
    | Resume
    | KillSwitch
    | OverrideIndex
    | CorrectDelivery
    | CorrectInsurance
    | HoldWithdrawal
    | PostWithdrawal
    | VoidWithdrawal
    | PayInsurance
    | CommitPurchase
    | WithdrawCommitment
    | SetLayer
    | AnchorReceipts
    | BidTransfer
    | WithdrawBid
    | BuyPackage
    | ResellPackage
)

InstructionState = Literal["PENDING", "APPLIED", "REFUSED"]


def encode(instruction: AnyInstruction) -> bytes:
    """Return the stored form of an instruction."""
    return msgspec.json.encode(instruction)


def decode(body: bytes) -> AnyInstruction:
    """Return the instruction of a stored body.

    :raises msgspec.ValidationError: when the body is not one.
    """
    return _decoder.decode(body)


_decoder: msgspec.json.Decoder[AnyInstruction] = msgspec.json.Decoder(AnyInstruction)
