"""What people type about packages: patterns of lots, discounts, days, hours."""

import re
from datetime import UTC, date, datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from marketplace import clock, contract, package_terms
from marketplace.forms import LotsField, PriceField

KEY = r"\A[\x21-\x7e]{1,64}\Z"
_NUMBER = re.compile(r"[0-9]{1,7}\Z", re.ASCII)
_DISCOUNT = re.compile(r"([0-9]{1,3})\s*[:=]\s*([0-9]{1,2})\s*%?\Z", re.ASCII)


class PatternField(forms.CharField):
    """One number, 24 or 168 of them, with spaces, commas or lines between."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=2_000, **options)

    def clean(self, value: Any) -> tuple[int, ...]:
        """Return the numbers; which of them fit each other is a rule of packages."""
        typed = super().clean(value)
        numbers = re.split(r"[\s,;]+", typed) if typed else []
        if not all(_NUMBER.match(one) for one in numbers):
            raise ValidationError("Lots are whole numbers.", code="invalid_lots")
        return tuple(int(one) for one in numbers)


class DiscountsField(forms.CharField):
    """Days and percent: `7: 5, 28: 12`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=400, required=False, **options)

    def clean(self, value: Any) -> package_terms.Discounts:
        """Return (days, percent) in the order given."""
        typed = super().clean(value)
        found = []
        for one in filter(None, (part.strip() for part in re.split(r"[,;\n]", typed))):
            match = _DISCOUNT.match(one)
            if match is None:
                raise ValidationError(
                    "A discount is days and percent: 7: 5, 28: 12.", code="invalid_discount"
                )
            found.append((int(match[1]), int(match[2])))
        return tuple(found)


class DayField(forms.DateField):
    """A UTC day; cleaned to the instant that it starts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(input_formats=["%Y-%m-%d"], **options)

    def clean(self, value: Any) -> Any:
        """Return microseconds."""
        day = super().clean(value)
        if not isinstance(day, date):
            return None
        if not 2000 <= day.year < 2100:
            raise ValidationError("That is too far away.", code="invalid_date")
        return clock.to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC))


class HourField(forms.DateTimeField):
    """A UTC hour; cleaned to its instant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(input_formats=["%Y-%m-%dT%H:%M"], **options)

    def clean(self, value: Any) -> Any:
        """Return microseconds."""
        moment = super().clean(value)
        if not isinstance(moment, datetime):
            return None
        if not 2000 <= moment.year < 2100:
            raise ValidationError("That is too far away.", code="invalid_time")
        return clock.to_micros(moment.replace(tzinfo=UTC))


class OfferPackage(forms.Form):
    """Hourly lots over a span of days; the last day is part of what is typed."""

    grade = forms.ChoiceField()
    from_date = DayField()
    last_date = DayField()
    lots = PatternField()
    p1_lots = PatternField(required=False)
    list_price = PriceField()
    discounts = DiscountsField()
    units = LotsField()
    idempotency_key = forms.RegexField(regex=KEY, max_length=64)

    def __init__(self, *args: Any, grades: list[tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["grade"] = forms.ChoiceField(choices=grades)

    def terms(self) -> package_terms.Terms:
        """Return what is offered."""
        given = self.cleaned_data
        return package_terms.Terms(
            starts_at=given["from_date"],
            ends_at=given["last_date"] + contract.DAY,
            lots=given["lots"],
            p1_lots=given["p1_lots"],
            list_price_ticks=given["list_price"],
            discounts=given["discounts"],
            units=given["units"],
        )


class Term(forms.Form):
    """Which days of a package, the last one included, and how many units."""

    from_date = DayField()
    last_date = DayField()
    units = LotsField()

    def clean(self) -> dict[str, Any]:
        """Refuse a term that ends before it starts."""
        values = super().clean() or {}
        first, last = values.get("from_date"), values.get("last_date")
        if first is not None and last is not None and last < first:
            self.add_error("last_date", "The last day is before the first.")
        return values


class BuyTerm(Term):
    """The same, confirmed."""

    idempotency_key = forms.RegexField(regex=KEY, max_length=64)


class Slice(forms.Form):
    """Hours and lots of a package that are sold on, to everybody or to one organization."""

    starts_at = HourField()
    ends_at = HourField()
    lots = PatternField()
    p1_lots = PatternField(required=False)
    price = PriceField()
    buyer = forms.CharField(max_length=80, required=False)
    idempotency_key = forms.RegexField(regex=KEY, max_length=64)


class Chosen(forms.Form):
    """A row that a button stands beside."""

    row = forms.RegexField(regex=r"\A[0-9]{1,18}\Z")
    idempotency_key = forms.RegexField(regex=KEY, max_length=64, required=False)
