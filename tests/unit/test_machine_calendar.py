"""What time does in the machine: listing, marks, bands, and the index at the gate."""

from exchange import commands, events
from exchange.machine import Machine, listing
from exchange.machine.entries import Entry
from marketplace import contract
from settlement import index, instructions
from tests.floor import GRADE, Floor, hour, instant, symbol


def listed(floor: Floor, product: str = "H") -> list[str]:
    """Return what the last command listed of a product, by the letter in its symbol."""
    symbols = [event.symbol for event in floor.of(events.InstrumentListed)]
    return [name for name in symbols if name.split(".")[1] == product]


def marked(floor: Floor, at: str = "20") -> list[tuple[int, str]]:
    """Return the marks that the last command gave an hour before its gate, and how."""
    marks = [e for e in floor.of(events.Marked) if e.instrument == symbol(at)]
    return [(e.price, e.method) for e in marks if e.method != "index"]


def test_a_grade_defined_in_the_morning_lists_the_rest_of_the_day() -> None:
    floor = Floor("09:00")
    assert listed(floor) == [symbol(f"{h:02}") for h in range(10, 24)]
    assert {e.state for e in floor.of(events.InstrumentChanged)} == {"CONTINUOUS"}
    assert floor.machine.next_due() == instant("09:55")


def test_a_grade_defined_at_ten_lists_tomorrow_too_in_its_call() -> None:
    floor = Floor("10:00")
    tomorrow = [symbol(f"+1 {h:02}") for h in range(24)]
    assert listed(floor)[-24:] == tomorrow
    assert floor.machine.instrument_view(tomorrow[0]).state == "CALL"


def test_a_grade_defined_at_noon_lists_tomorrow_open() -> None:
    floor = Floor("12:00")
    assert floor.machine.instrument_view(symbol("+1 23")).state == "CONTINUOUS"
    assert floor.machine.instrument_view(symbol("+1 23")).starts_at == hour("+1 23")


def test_hours_are_listed_at_ten_the_day_before_and_trade_from_noon() -> None:
    floor = Floor("09:59")
    floor.account(1)
    assert floor.machine.instrument_view(symbol("+1 14")) is None
    floor.to("10:00")
    assert listed(floor) == [symbol(f"+1 {h:02}") for h in range(24)]
    floor.at = instant("12:00") - 1
    floor.buy(1, 1, 1_250, at="+1 14", time_in_force="IOC")
    assert floor.rejected() == "not_in_call"
    floor.at = instant("12:00")
    floor.buy(1, 1, 1_250, at="+1 14", time_in_force="IOC")
    assert floor.rejected() is None
    opened = [e for e in floor.of(events.InstrumentChanged) if e.state == "CONTINUOUS"]
    assert [e.symbol for e in opened] == [symbol(f"+1 {h:02}") for h in range(24)]


def test_a_long_absence_is_caught_up_in_order_each_at_its_own_time() -> None:
    floor = Floor("13:00")
    floor.to("+3 13:30")
    times = [e.at for e in floor.last if isinstance(e, events.GateClosed | events.InstrumentListed)]
    assert times == sorted(times)
    gates = [e.hour_starts_at for e in floor.of(events.GateClosed)]
    assert gates == list(range(hour("14"), hour("+3 14"), contract.HOUR))
    assert all(e.at == e.hour_starts_at - 300_000_000 for e in floor.of(events.GateClosed))
    assert floor.machine.at == floor.at


def test_calendar_steps_and_one_leap_give_the_same_state() -> None:
    def scene() -> Floor:
        floor = Floor("13:00")
        floor.account(1, certified=100)
        floor.account(2)
        floor.sell(1, 20, 1_260)
        floor.buy(2, 10, 1_260)
        floor.buy(2, 15, 1_240)
        return floor

    leap, steps = scene(), scene()
    leap.to("+1 09:00")
    happened = []
    while (due := steps.machine.next_due()) is not None and due <= instant("+1 09:00"):
        steps.at = due
        happened += steps.apply(commands.Tick())
    leap.machine.state.sequence = steps.machine.state.sequence
    steps.machine.state.at = leap.machine.state.at
    assert steps.machine.snapshot() == leap.machine.snapshot()
    sequenced = (events.OrderClosed,)
    assert [e for e in happened if not isinstance(e, sequenced)] == [
        e for e in leap.last if not isinstance(e, sequenced)
    ]


def test_the_reference_is_the_parents_mark_else_the_mean_of_a_week_else_the_operators() -> None:
    floor = Floor("09:00")
    state = floor.machine.state
    grade, instruments = state.grades[GRADE], state.instruments
    tomorrow = contract.day_contract(GRADE, hour("+1 00")).symbol
    instruments[tomorrow].mark = 1_260
    floor.to("10:00")
    assert floor.machine.instrument_view(symbol("+1 14")).reference_price == 1_260
    listed_without = instruments[symbol("+1 14")]
    listed_without.parents = ()
    assert listing.reference_price(listed_without) == 1_250, "no such hour has an index yet"
    for days, price in ((-6, 1_240), (-1, 1_300), (0, 1_201)):
        grade.index[hour(f"{days} 14")] = price
    grade.index[hour("0 15")] = grade.index[hour("-7 14")] = 9_999
    assert listing.reference_price(listed_without) == 1_247
    month = instruments["LLAMA70B.M.F26"]
    assert listing.reference_price(month) == 4_165, "the mean of all six, half up"


def test_new_terms_hold_for_what_is_listed_from_now_on() -> None:
    floor = Floor("09:00")
    changed = {"maker_fee_bp": 1, "taker_fee_bp": 5, "band_percent": 10, "dynamic_percent": 7}
    assert floor.define(2_000, **changed) is None
    floor.to("10:00")
    old, new = symbol("14"), symbol("+1 14")
    assert floor.machine.instrument_view(old).reference_price == 1_250
    view = floor.machine.instrument_view(new)
    assert (view.reference_price, view.band_low, view.band_high) == (1_250, 1_125, 1_375)
    assert floor.machine.state.instruments[old].taker_fee_bp == 20
    assert floor.machine.state.instruments[new].taker_fee_bp == 5
    assert floor.machine.state.instruments[old].dynamic_percent == 5
    assert floor.machine.state.instruments[new].dynamic_percent == 7


def test_terms_that_make_no_sense_are_refused() -> None:
    floor = Floor()
    for wrong in (
        {"reference_price_ticks": 0},
        {"maker_fee_bp": 30},
        {"maker_fee_bp": -1},
        {"band_percent": 100},
        {"dynamic_percent": 0},
        {"dynamic_percent": 100},
        {"grade": "lower"},
    ):
        terms = {"grade": GRADE, "reference_price_ticks": 1_250} | wrong
        assert floor.instruct(instructions.DefineGrade(**terms)) == "invalid_terms"


def test_a_narrow_price_has_a_band_of_ten_ticks() -> None:
    floor = Floor(reference=8)
    view = floor.machine.instrument_view(symbol("20"))
    assert (view.band_low, view.band_high) == (1, 18)


def quoted(floor: Floor) -> None:
    """Two accounts that may sell, and two to buy."""
    for account in (1, 2):
        floor.account(account, certified=1_000)
    for account in (3, 4):
        floor.account(account)


def test_the_mark_is_the_volume_weighted_price_of_the_last_half_hour() -> None:
    floor = Floor("13:00")
    quoted(floor)
    floor.sell(1, 10, 1_300)
    floor.buy(3, 10, 1_300)
    floor.to("13:30")
    for lots, price in ((10, 1_260), (5, 1_271)):
        floor.sell(1, lots, price)
        floor.buy(3, lots, price)
    floor.to("14:00")
    assert marked(floor) == [(1_264, "trades")]
    floor.to("15:00")
    assert marked(floor) == []


def test_a_large_move_is_marked_a_second_later_and_paid_at_once() -> None:
    floor = Floor("13:00")
    quoted(floor)
    floor.sell(1, 10, 1_270)
    floor.buy(3, 10, 1_270)
    # Half the maintenance margin of a short at 1,250 is 1.875 %: 23 ticks.
    floor.to("13:20")
    assert marked(floor) == []
    floor.sell(1, 30, 1_274)
    floor.buy(4, 30, 1_274)
    assert floor.machine.next_due() == instant("13:20:01")
    floor.to("13:20:01")
    assert marked(floor) == [], "the average of half an hour is 1,273, and near enough"
    floor.sell(2, 40, 1_280)
    floor.buy(4, 40, 1_280)
    floor.to("13:20:02")
    assert marked(floor) == [(1_277, "trades")]
    paid = {(d[0] or c[0]): a * (1 if c[0] else -1) for d, c, a, _ in floor.moved()}
    assert paid == {
        1: -60 * (10 * 7 + 30 * 3),
        2: 60 * 40 * 3,
        3: 60 * 10 * 7,
        4: 60 * (30 * 3 - 40 * 3),
    }
    assert sum(paid.values()) == 0
    position = floor.machine.position(1, symbol("20"))
    assert (position.cost_ticks, position.received_ticks) == (-10 * 1_270 - 30 * 1_274, -160)


def test_a_large_move_after_an_auction_is_marked_at_once_too() -> None:
    """The auction's 1,250 is the mark already; 31 lots of the half hour were 1,298.4 on average."""
    floor = Floor("11:00")
    quoted(floor)
    floor.sell(1, 1, 1_250, at="+1 14")
    floor.buy(3, 1, 1_250, at="+1 14")
    floor.to("12:00")
    floor.to("12:10")
    floor.sell(1, 30, 1_300, at="+1 14")
    floor.buy(4, 30, 1_300, at="+1 14")
    floor.to("12:10:01")
    assert marked(floor, "+1 14") == [(1_298, "trades")]


def test_an_auction_that_moves_a_price_far_is_marked_at_once_by_its_own_price() -> None:
    floor = Floor("13:00")
    quoted(floor)
    floor.sell(1, 30, 1_260)
    floor.buy(3, 30, 1_260)
    floor.instruct(instructions.Halt(instrument=symbol("20")))
    floor.instruct(instructions.Resume(instrument=symbol("20")))
    floor.sell(1, 10, 1_320)
    floor.buy(4, 10, 1_320)
    floor.to("13:05")
    floor.to("13:05:01")
    assert marked(floor) == [(1_320, "auction")]


def test_lots_that_went_round_between_two_groups_move_the_mark_until_they_are_back() -> None:
    floor = Floor("13:30")
    quoted(floor)
    for account in (1, 3):
        floor.certify(account, 2_000)
    floor.sell(2, 10, 1_250)
    floor.buy(4, 10, 1_250)
    floor.to("13:40")
    floor.sell(1, 50, 1_300)
    floor.buy(3, 50, 1_300)
    floor.to("13:43")
    assert marked(floor) == [(1_292, "trades")]
    cash = floor.view(2).cash
    floor.sell(3, 50, 1_300)
    floor.buy(1, 50, 1_300)
    floor.to("14:00")
    assert marked(floor) == [(1_250, "trades")]
    assert floor.view(2).cash == cash + 60 * 10 * 42, "what was paid for the rise is paid back"
    assert floor.machine.instrument_view(symbol("20")).last == 1_300


def test_where_all_volume_went_round_the_mark_goes_on_down_its_ladder() -> None:
    floor = Floor("13:30")
    quoted(floor)
    floor.certify(3, 1_000)
    for seller, buyer in ((1, 3), (3, 1)):
        floor.sell(seller, 50, 1_310)
        floor.buy(buyer, 50, 1_310)
    floor.buy(3, 1, 1_255)
    floor.sell(1, 1, 1_260)
    floor.to("14:00")
    assert marked(floor) == [(1_258, "mid")]


def test_a_tight_book_without_trades_is_marked_at_its_middle() -> None:
    floor = Floor("13:00")
    quoted(floor)
    floor.buy(3, 1, 1_255)
    floor.sell(1, 1, 1_260)
    floor.to("14:00")
    assert marked(floor) == [(1_258, "mid")]


def test_a_wide_book_keeps_its_mark() -> None:
    floor = Floor("13:00")
    quoted(floor)
    floor.buy(3, 1, 1_150)
    floor.sell(1, 1, 1_300)
    floor.to("13:59")
    floor.to("14:00")
    assert floor.of(events.Marked) == []


def test_a_mark_is_paid_and_moves_what_a_short_has_reserved() -> None:
    floor = Floor("13:40", dynamic_percent=20)
    quoted(floor)
    floor.sell(1, 40, 1_250)
    floor.buy(3, 40, 1_250)
    cash = floor.view(1).cash
    floor.sell(2, 10, 1_400)
    floor.buy(4, 10, 1_400)
    floor.to("14:00")
    mark = floor.machine.instrument_view(symbol("20")).mark
    assert mark == 1_280
    assert floor.view(1).initial_margin == 3 * 40 * mark
    assert floor.view(1).cash == cash - 60 * 40 * (mark - 1_250)
    assert floor.view(3).initial_margin == 60 * 40 * mark, "what was won prepays the new price"


def test_a_mark_that_takes_the_money_withdraws_unfunded_orders_newest_first() -> None:
    floor = Floor("13:40", dynamic_percent=20)
    quoted(floor)
    floor.account(5, certified=1_000, cash=800_000)
    floor.sell(5, 40, 1_250)
    floor.buy(3, 40, 1_250)
    first = floor.buy(5, 3, 1_250, at="21")
    second = floor.buy(5, 3, 1_200, at="22")
    floor.sell(1, 100, 1_400)
    floor.buy(3, 100, 1_400)

    floor.to("14:00")

    # The short needs 419,640 of what was left, and one of the two bids gives enough back.
    assert floor.closed() == [(second, "canceled", "unfunded")]
    assert first in floor.machine.state.orders
    assert floor.view(5).available >= 0


def test_at_midnight_the_band_moves_to_the_mark_and_orders_outside_leave() -> None:
    floor = Floor("13:00")
    quoted(floor)
    low = floor.buy(3, 1, 1_080, at="+1 20")
    kept = floor.buy(3, 1, 1_200, at="+1 20")
    floor.to("23:40")
    floor.sell(1, 10, 1_400, at="+1 20")
    floor.buy(4, 10, 1_400, at="+1 20")
    floor.to("+1 00:00")
    view = floor.machine.instrument_view(symbol("+1 20"))
    assert (view.mark, view.reference_price) == (1_400, 1_400)
    assert (view.band_low, view.band_high) == (1_190, 1_610)
    assert [c for c in floor.closed() if c[2] == "band_moved"] == [(low, "canceled", "band_moved")]
    assert kept in floor.machine.state.orders


def published(floor: Floor, starts: str) -> events.IndexPublished:
    (event,) = [
        e for e in floor.events
        if isinstance(e, events.IndexPublished) and e.hour_starts_at == hour(starts)
    ]  # fmt: skip
    value = index.compute(index.decode(event.inputs))
    assert value == (event.price, event.method), "the inputs reproduce the value"
    assert index.digest(event.inputs) == event.digest
    return event


def test_the_index_is_published_when_trading_ends_with_inputs_that_reproduce_it() -> None:
    floor = Floor("18:00")
    for account in range(1, 11):
        floor.account(account, certified=100)
    for seller, price in ((1, 1_240), (2, 1_250), (3, 1_260), (4, 1_270), (5, 1_280)):
        floor.sell(seller, 20, price)
        floor.buy(seller + 5, 20, price)
    floor.to("19:55")
    event = published(floor, "20")
    assert (event.price, event.method, event.at) == (1_260, "trades", instant("19:55"))


def test_without_trades_the_index_is_the_time_weighted_middle_of_the_last_hour() -> None:
    floor = Floor("18:00")
    quoted(floor)
    floor.buy(3, 10, 1_240)
    offer = floor.sell(1, 10, 1_260)
    floor.at = instant("19:25")
    floor.cancel(1, offer)
    floor.sell(2, 10, 1_300)
    floor.to("19:55")
    event = published(floor, "20")
    # 30 minutes at 1,250 and 30 at 1,270.
    assert (event.price, event.method) == (1_260, "mid")


def test_one_lot_in_front_of_the_book_does_not_move_the_middle() -> None:
    floor = Floor("18:00")
    quoted(floor)
    floor.buy(3, 10, 1_240)
    floor.sell(1, 10, 1_260)
    floor.buy(4, 1, 1_259)
    floor.to("19:55")
    assert published(floor, "20").price == 1_250


def test_a_book_of_one_group_or_of_few_lots_has_no_middle() -> None:
    for buyer, lots in ((1, 10), (3, 9)):
        floor = Floor("18:00")
        quoted(floor)
        floor.buy(buyer, lots, 1_240)
        floor.sell(1, 10, 1_260)
        floor.to("19:55")
        assert published(floor, "20").method == "mark"


def test_a_later_hour_falls_back_on_the_last_sound_index_for_six_hours() -> None:
    floor = Floor("13:00")
    quoted(floor)
    floor.buy(3, 10, 1_280, at="14")
    floor.sell(1, 10, 1_300, at="14")
    floor.to("23:59")
    assert (published(floor, "14").method, published(floor, "14").price) == ("mid", 1_290)
    for starts in ("15", "20"):
        assert (published(floor, starts).method, published(floor, starts).price) == ("last", 1_290)
    assert published(floor, "21").method == "mark"


def test_an_idle_machine_knows_when_it_has_to_be_woken() -> None:
    floor = Floor("13:00")
    assert floor.machine.next_due() == instant("13:55")
    floor.to("13:55")
    assert floor.machine.next_due() == instant("14:00")
    floor.to("14:00")
    assert floor.machine.next_due() == instant("14:55")


def test_only_the_time_in_which_a_book_qualified_counts_for_its_middle() -> None:
    for until, method in (("19:20", "mark"), ("19:25", "mid")):
        floor = Floor("18:00")
        quoted(floor)
        floor.buy(3, 10, 1_240)
        offer = floor.sell(1, 10, 1_260)
        floor.at = instant(until)
        floor.cancel(1, offer)
        floor.to("19:55")
        assert published(floor, "20").method == method


def _set_aside(floor: Floor, kind: Entry) -> list:
    """Journal the next entry of a kind as one that broke, now; return what happened."""
    entry = min(entry for entry in floor.machine.state.calendar if entry[1] == kind)
    named = floor.machine.symbol_of(entry)
    return floor.apply(commands.Quarantine(b"", "it broke", named, entry))


def test_what_comes_after_an_entry_that_is_set_aside_is_left_to_the_next_command() -> None:
    floor = Floor("13:50")
    floor.at = instant("15:30")
    _set_aside(floor, Entry.TRADING_ENDS)  # that of 14:00
    assert floor.machine.at == instant("13:55")
    assert floor.machine.next_due() == instant("13:55")  # The middle of 15:00 is watched from here.
    assert floor.machine.instrument_view(symbol("14")).state == "HALTED"
    assert floor.machine.instrument_view(symbol("15")).state == "CONTINUOUS"
    twin = Machine.restore(floor.machine.snapshot())
    happened = floor.apply(commands.Tick())
    assert twin.apply(commands.Tick(), floor.machine.sequence, floor.at) == happened
    assert floor.machine.instrument_view(symbol("15")) is None
    # Whoever resumes an hour whose end could not be performed ends it, and nothing trades.
    assert floor.instruct(instructions.Resume(instrument=symbol("14"))) is None
    assert floor.machine.instrument_view(symbol("14")) is None


def test_an_entry_that_is_entered_and_set_aside_in_one_leap_comes_again() -> None:
    floor = Floor("13:10")
    marks = (instant("14:00"), int(Entry.MARK), 0), (instant("15:00"), int(Entry.MARK), 0)
    assert marks[0] in floor.machine.state.calendar
    floor.at = instant("15:30")
    floor.apply(commands.Quarantine(b"", "it broke", "", marks[1]))
    assert floor.machine.at == instant("15:00")
    assert (instant("16:00"), int(Entry.MARK), 0) in floor.machine.state.calendar


def test_switches_work_on_after_one_was_set_aside() -> None:
    floor = Floor("13:10")
    floor.account(1)
    floor.switch(1, 60_000_000, "first")
    floor.switch(1, 120_000_000)
    floor.at = instant("13:11")
    _set_aside(floor, Entry.SWITCH)
    assert floor.of(events.SwitchSet) == [events.SwitchSet(1, "first", 0, floor.at)]
    order = floor.buy(1, 5, 1_250)
    floor.to("13:12")
    assert floor.closed() == [(order, "canceled", "cancel_all_after")]
