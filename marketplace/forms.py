"""What people type into the pages, checked by the rules the interfaces use.

A price typed into the ticket is parsed by the same function that parses one sent over REST, so
there is one idea of what a price is. People are allowed what programs are not: spaces around a
value, and a price with fewer than three decimals.
"""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError

from marketplace import contract, errors, text, wire
from marketplace.models import User

REPLICAS_MAX = 64
TENSOR_PARALLEL = (1, 2, 4, 8)
CLASSES = ("P0", "P1", "P2", "P3")
OVERFLOWS = ("SPILL", "REJECT", "QUEUE")
SCOPES = ("read", "trade", "transfer", "gateway")


def refused(call: Callable[[], Any]) -> Any:
    """Return what the parser returns; its refusal becomes a message beside the field.

    :raises ValidationError: when the parser refuses.
    """
    try:
        return call()
    except errors.Refusal as refusal:
        detail = refusal.detail[:1].upper() + refusal.detail[1:]
        raise ValidationError(detail, code=refusal.code) from None


class PriceField(forms.CharField):
    """A price in USD; cleaned to ticks of the instrument that another field of the form names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=16, **options)
        self.decimals = contract.PRICE_DECIMALS

    def clean(self, value: Any) -> Any:
        """Return ticks."""
        typed = super().clean(value)
        if not typed:
            return None
        text = wire.padded_price(typed, self.decimals)
        return refused(lambda: wire.parse_price(text, decimals=self.decimals))


class PricedForm(forms.Form):
    """A form whose prices are of its `instrument`."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.decimals = contract.decimals_of(str(self.data.get("instrument", "")))
        for field in self.fields.values():
            if isinstance(field, PriceField):
                field.decimals = self.decimals


class LotsField(forms.CharField):
    """A whole number of lots."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=9, **options)

    def clean(self, value: Any) -> Any:
        """Return the number."""
        typed = super().clean(value)
        if not typed:
            return None
        return refused(lambda: wire.parse_whole(typed, "lots", low=1, high=contract.LOTS_MAX))


class MoneyField(forms.CharField):
    """A positive amount of USD; cleaned to micro-USD."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=20, **options)

    def clean(self, value: Any) -> Any:
        """Return micro-USD."""
        typed = super().clean(value)
        return refused(lambda: wire.parse_money(typed))


class NameField(forms.CharField):
    """A name that other people will read."""

    def clean(self, value: Any) -> Any:
        """Return the name in normal form."""
        typed = super().clean(value)
        length_max = self.max_length or text.NAME_LENGTH_MAX
        return refused(lambda: text.parse_name(typed, length_max=length_max)) if typed else ""


class Login(forms.Form):
    """E-mail address and password."""

    email = forms.EmailField(max_length=254)
    password = forms.CharField(max_length=128, strip=False)


class Signup(forms.Form):
    """A new user and the organization it acts for."""

    organization = NameField(max_length=80)
    role = forms.ChoiceField(choices=[("BUYER", "Buy capacity"), ("PROVIDER", "Sell capacity")])
    email = forms.EmailField(max_length=254)
    password = forms.CharField(max_length=128, strip=False)

    def clean(self) -> dict[str, Any]:
        """Check the password against the rules, with the address in view."""
        values = super().clean() or {}
        if password := values.get("password"):
            try:
                password_validation.validate_password(password, User(email=values.get("email", "")))
            except ValidationError as failure:
                self.add_error("password", failure)
        return values


ORDER_TYPES = [
    ("limit", "Limit"),
    ("market", "Market"),
    ("stop", "Stop"),
    ("stop_limit", "Stop limit"),
]
TIMES_IN_FORCE = [
    ("GTC", "Until canceled or gate closure"),
    ("DAY", "Until 00:00 UTC"),
    ("GTD", "Until a time"),
    ("IOC", "Immediate or cancel"),
    ("FOK", "All at once or nothing"),
]
PREVENTIONS = [
    ("cancel_newest", "cancel this one"),
    ("cancel_oldest", "cancel the waiting one"),
    ("cancel_both", "cancel both"),
    ("decrement", "take the smaller off both"),
]


class Ticket(PricedForm):
    """An order as a person enters it; which terms go together is the market's own rule."""

    instrument = forms.CharField(max_length=40)
    side = forms.ChoiceField(choices=[("buy", "Buy"), ("sell", "Sell")])
    type = forms.ChoiceField(choices=ORDER_TYPES, required=False)
    price = PriceField(required=False)
    stop_price = PriceField(required=False)
    lots = LotsField()
    time_in_force = forms.ChoiceField(choices=TIMES_IN_FORCE, required=False)
    expires_at = forms.DateTimeField(required=False, input_formats=["%Y-%m-%dT%H:%M"])
    display_quantity = LotsField(required=False)
    min_quantity = LotsField(required=False)
    post_only = forms.BooleanField(required=False)
    reduce_only = forms.BooleanField(required=False)
    self_trade_prevention = forms.ChoiceField(choices=PREVENTIONS, required=False)
    client_order_id = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)

    def terms(self) -> dict[str, Any]:
        """Return the order in the words of the interface, without what does not apply to its type.

        A page without scripts sends every field; a market order has no limit price to send.
        """
        given = self.cleaned_data
        kind = given["type"] or "limit"
        has_price = kind in ("limit", "stop_limit")
        has_stop = kind in ("stop", "stop_limit")
        time_in_force = (given["time_in_force"] or "GTC").lower() if has_price else "gtc"
        expires_at = given["expires_at"] if time_in_force == "gtd" else None
        return {
            "instrument": given["instrument"],
            "side": given["side"],
            "type": kind,
            "price": self._text(given["price"]) if has_price else None,
            "stop_price": self._text(given["stop_price"]) if has_stop else None,
            "quantity": given["lots"],
            "time_in_force": time_in_force,
            "expires_at": wire.moment_text(expires_at) if expires_at else None,
            "display_quantity": given["display_quantity"] if has_price else None,
            "min_quantity": given["min_quantity"],
            "post_only": given["post_only"] and kind == "limit",
            "reduce_only": given["reduce_only"],
            "self_trade_prevention": given["self_trade_prevention"] or "cancel_newest",
            "client_order_id": given["client_order_id"],
        }

    def _text(self, ticks: int | None) -> str | None:
        return wire.optional_price_text(ticks, self.decimals)


class Amend(PricedForm):
    """A new price, a new quantity or both for a live order."""

    instrument = forms.CharField(max_length=40, required=False)
    order = forms.RegexField(regex=r"\A[0-9]{1,19}\Z")
    price = PriceField(required=False)
    lots = LotsField(required=False)


class Cancel(forms.Form):
    """Which resting order to withdraw."""

    order = forms.RegexField(regex=r"\A[0-9]{1,19}\Z")


class RegisterCluster(forms.Form):
    """Accelerators that a provider wants to sell."""

    grade = forms.ChoiceField()
    name = NameField(max_length=80)
    accelerator = forms.ChoiceField()
    tensor_parallel = forms.TypedChoiceField(
        choices=[(size, str(size)) for size in TENSOR_PARALLEL], coerce=int
    )
    replicas = forms.RegexField(regex=r"\A[0-9]{1,3}\Z")
    endpoint = forms.CharField(max_length=500, required=False)
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)

    def __init__(
        self, *args: Any, grades: list[tuple[str, str]], accelerators: list[str], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.fields["grade"] = forms.ChoiceField(choices=grades)
        self.fields["accelerator"] = forms.ChoiceField(choices=[(one, one) for one in accelerators])

    def clean_replicas(self) -> int:
        """Return the number of replicas."""
        replicas: int = refused(
            lambda: wire.parse_whole(
                self.cleaned_data["replicas"], "replicas", low=1, high=REPLICAS_MAX
            )
        )
        return replicas


class ListCapacity(forms.Form):
    """An offer of certified lots in one hour at a price."""

    cluster = forms.RegexField(regex=r"\A[0-9a-f-]{1,36}\Z")
    instrument = forms.CharField(max_length=40)
    price = PriceField()
    lots = LotsField()
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


class OfferCover(forms.Form):
    """What a cluster takes over from others at most, and at which price."""

    cluster = forms.RegexField(regex=r"\A[0-9a-f-]{1,36}\Z")
    price = PriceField()
    lots = LotsField()
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


class Resale(forms.Form):
    """Surplus of a grade that is to be sold, at or above a floor price."""

    grade = forms.ChoiceField()
    floor_price = PriceField()
    forecast = forms.ChoiceField(
        choices=[("LAST_WEEK_SAME_HOUR", "last week"), ("NONE", "only the lots kept")]
    )
    keep = LotsField(required=False)
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)

    def __init__(self, *args: Any, grades: list[tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["grade"] = forms.ChoiceField(choices=grades)


class Commitment(forms.Form):
    """Lots that are to be bought with others at a deadline, in UTC."""

    instrument = forms.CharField(max_length=40)
    deadline = forms.DateTimeField(input_formats=["%Y-%m-%dT%H:%M"])
    lots = LotsField()
    price = PriceField()
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


class Bid(forms.Form):
    """At which price an organization would be short of lots that are offered."""

    offer = forms.RegexField(regex=r"\A[0-9]{1,18}\Z")
    lots = LotsField()
    price = PriceField()
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


class Layer(forms.Form):
    """What the exchange's layer is to bear at most, and why."""

    limit = MoneyField()
    reason = NameField(max_length=240, min_length=5)


class MakeKey(forms.Form):
    """A new API key: what it is called, what it may do, how its requests are served."""

    name = NameField(max_length=80, required=False)
    scopes = forms.MultipleChoiceField(choices=[(scope, scope) for scope in SCOPES])
    default_class = forms.ChoiceField(choices=[(one, one) for one in CLASSES])
    overflow = forms.ChoiceField(choices=[(one, one.lower()) for one in OVERFLOWS])


class Deposit(forms.Form):
    """Cash that a person says is on its way."""

    amount = MoneyField()
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


class Dispute(forms.Form):
    """An objection to one interval of a delivery, or to all (0)."""

    delivery = forms.RegexField(regex=r"\A[0-9]{1,18}\Z")
    interval = forms.TypedChoiceField(
        choices=[(number, str(number)) for number in range(contract.INTERVALS_PER_HOUR + 1)],
        coerce=int,
    )
    reason = NameField(max_length=240, min_length=5)
    idempotency_key = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


class Withdraw(forms.Form):
    """Which dispute to take back."""

    dispute = forms.RegexField(regex=r"\A[0-9]{1,18}\Z")
