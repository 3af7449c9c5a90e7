"""Where tenants stood when: what a file may do to the places that are stored.

A place is known by its tenant and the time from which it counts. A tenant that is new stands in its first place from
ever on. Of another one, a new org unit or cost center is a *move*: from `org_from`, or else from the time of `apply`. A
move that lies ahead may be changed, put off or undone. A place that is in force is history: to put another in its stead
or to date it anew, the file must say `correct_history: true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from meterhouse.streams.control import EVER_US, Place, Snapshot, Tenant
from meterhouse.warehouse.control_fields import Located, Problem, time_text


@dataclass(frozen=True, slots=True)
class Move:
    """What a tenant's entry says of when it came to stand where it says."""

    from_us: int | None = None  # None: not said
    corrects: bool = False


@dataclass(slots=True)
class MergedPlaces:
    """Places of all who ever moved, by tenant and time, with what is to be said about them."""

    places: tuple[Place, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def merge_places(
    current: Snapshot, listed: Sequence[Located[Tenant]], moves: Mapping[str, Move], now_us: int
) -> MergedPlaces:
    """What the stored places become under a file's sound tenants. `moves`: by tenant id, where anything is said."""
    stored = current.places_by_tenant()
    merged, changed = MergedPlaces(), dict[str, Sequence[Place]]()
    for entry in listed:
        move, before = moves.get(entry.value.id, Move()), stored.get(entry.value.id)
        if not entry.sound:
            continue
        if before is None:
            if move.from_us is not None:
                message = "says nothing of a tenant that is new: it stands in its first place from ever on"
                merged.warnings.append(entry.problem(message, "org_from"))
            continue
        after = _moved(before, entry.value, move, now_us)
        lost = [place for place in before if place.from_us <= now_us and place not in after]
        if lost and not move.corrects:
            merged.problems.append(_refusal(entry, lost[0]))
        elif after != before:
            changed[entry.value.id] = after
            merged.warnings.extend(_warnings(entry, before, after, now_us))
    every = {**stored, **changed}
    merged.places = tuple(place for tenant in sorted(every) if len(every[tenant]) > 1 for place in every[tenant])
    return merged


def _moved(before: Sequence[Place], tenant: Tenant, move: Move, now_us: int) -> Sequence[Place]:
    """The tenant's places when it stands where the file says."""
    newest = before[-1]
    if newest.is_as(tenant):
        if move.from_us in (None, newest.from_us) or len(before) == 1:
            return before
        before = before[:-1]  # dated anew
    from_us = now_us if move.from_us is None else move.from_us
    kept = [place for place in before if place.from_us < from_us]
    return kept if kept[-1].is_as(tenant) else [*kept, Place(tenant.id, from_us, tenant.org, tenant.cost_center)]


def _refusal(entry: Located[Tenant], lost: Place) -> Problem:
    message = (
        f"would change history: the tenant is in {_shown(lost)} since {time_text(lost.from_us)}; give the move a later"
        " org_from, or say correct_history: true beside it if that was wrong"
    )
    return entry.problem(message, "org_from")


def _warnings(entry: Located[Tenant], before: Sequence[Place], after: Sequence[Place], now_us: int) -> list[Problem]:
    """Reports of the past will tell otherwise from now on, or budgets already do."""
    new = after[-1]
    if new not in before and new.from_us < now_us:
        message = f"lies in the past: chargeback of the time since {time_text(new.from_us)} goes to {_shown(new)}"
        return [entry.problem(message, "org_from")]
    if new.from_us > now_us:
        message = "lies ahead: reports follow from then on; budgets and objectives of an org unit go by it at once"
        return [entry.problem(message, "org_from")]
    return []


def _shown(place: Place) -> str:
    return f"{place_fields(place)['org'] or 'no org unit'}, cost center {place.cost_center or 'none'}"


def place_name(place: Place) -> str:
    """A place as people are told of it."""
    return f"{place.tenant} from {'ever' if place.from_us == EVER_US else time_text(place.from_us)}"


def place_fields(place: Place | Tenant) -> dict[str, str | None]:
    return {"org": " / ".join(place.org) or None, "cost_center": place.cost_center}
