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

from marketplace import errors, text, wire
from marketplace.models import User

LOTS_MAX = 100_000
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
    """A price in USD per MNTU; cleaned to ticks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=16, **options)

    def clean(self, value: Any) -> Any:
        """Return ticks."""
        typed = super().clean(value)
        if not typed:
            return None
        whole, _, decimals = typed.partition(".")
        return refused(lambda: wire.parse_price(f"{whole}.{decimals.ljust(3, '0')}"))


class LotsField(forms.CharField):
    """A whole number of lots."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=9, **options)

    def clean(self, value: Any) -> Any:
        """Return the number."""
        typed = super().clean(value)
        return refused(lambda: wire.parse_whole(typed, "lots", low=1, high=LOTS_MAX))


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
        return refused(lambda: text.parse_name(typed)) if typed else ""


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


class Ticket(forms.Form):
    """An order as a person enters it."""

    instrument = forms.CharField(max_length=40)
    side = forms.ChoiceField(choices=[("buy", "Buy"), ("sell", "Sell")])
    price = PriceField()
    lots = LotsField()
    time_in_force = forms.ChoiceField(choices=[("GTC", "Until canceled"), ("IOC", "Now or never")])
    client_order_id = forms.RegexField(regex=r"\A[\x21-\x7e]{1,64}\Z", max_length=64)


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
