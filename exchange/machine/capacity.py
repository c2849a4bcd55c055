"""What stands behind an account's sales: its clusters, less what they are promised to.

A cluster is certified for a number of lots until an instant. Of these, first, some may stand behind
another account's shorts (`transfers`), the earliest first served; then some are pledged to packages
(`pledges`), split over the clusters as an obligation is; the rest is behind its owner's own sales.
"""

from exchange.machine.promises import NO_PLEDGE, Pledge
from exchange.machine.records import Backing, Cluster
from marketplace import contract
from settlement import delivery


class Capacity:
    """An account's clusters, and how many lots of an hour they leave it."""

    __slots__ = ("backed", "backs", "clusters", "pledges")

    def stand_alone(self) -> None:
        """Begin without any."""
        self.clusters: dict[int, Cluster] = {}
        self.backs: dict[int, Backing] = {}
        """What of its clusters stands behind others' shorts, by number."""
        self.backed: dict[int, tuple[Capacity, Backing]] = {}
        """What of others' clusters stands behind its shorts, with their owners."""
        self.pledges: dict[str, dict[int, Pledge]] = {}
        """What its clusters have to deliver to packages, by grade and hour."""

    def certified_lots(self, grade: str, hour_ends_at: int) -> dict[int, int]:
        """Return certified lots by cluster that hold to the end of an hour, less pledged ones.

        Others' clusters that stand behind the account's shorts are among them.
        """
        certified = self._standing(grade, hour_ends_at)
        if self.pledges:
            for share in self.pledged_shares(grade, hour_ends_at):
                if share.cluster != delivery.NO_CLUSTER:
                    certified[share.cluster] -= share.lots
        for number in sorted(self.backed):
            owner, backing = self.backed[number]
            if backing.covers(grade, hour_ends_at):
                lots = owner.backing_lots(grade, hour_ends_at).get(number, 0)
                certified[backing.cluster] = certified.get(backing.cluster, 0) + lots
        return certified

    def _standing(self, grade: str, hour_ends_at: int) -> dict[int, int]:
        """Return certified lots by own cluster, less those that stand behind others' shorts."""
        certified = {
            cluster.id: cluster.lots
            for cluster in self.clusters.values()
            if cluster.grade == grade and cluster.valid_until >= hour_ends_at
        }
        if self.backs:
            for number, lots in self.backing_lots(grade, hour_ends_at).items():
                certified[self.backs[number].cluster] -= lots
        return certified

    def backing_lots(self, grade: str, hour_ends_at: int) -> dict[int, int]:
        """Return what stands behind others' shorts by number, the earliest first served."""
        left: dict[int, int] = {}
        found = {}
        for number in sorted(self.backs):
            backing = self.backs[number]
            cluster = self.clusters[backing.cluster]
            if (
                backing.covers(grade, hour_ends_at)
                and cluster.grade == grade
                and cluster.valid_until >= hour_ends_at
            ):
                lots = min(backing.lots, left.get(cluster.id, cluster.lots))
                left[cluster.id] = left.get(cluster.id, cluster.lots) - lots
                found[number] = lots
        return found

    def free_lots(self, grade: str, hour_ends_at: int) -> int:
        """Return how many certified lots hold to the end of an hour and are not pledged."""
        if self.backs or self.backed:
            return sum(self.certified_lots(grade, hour_ends_at).values())
        certified = sum(
            cluster.lots
            for cluster in self.clusters.values()
            if cluster.grade == grade and cluster.valid_until >= hour_ends_at
        )
        return max(0, certified - self.pledge(grade, hour_ends_at - contract.HOUR).lots)

    def pledgeable(self, grade: str, hour_ends_at: int) -> Pledge:
        """Return how many lots of an hour packages could have in all, and how many of them as P1.

        Only the account's own clusters deliver its packages.
        """
        standing = self._standing(grade, hour_ends_at)
        timed = sum(
            min(room.timed_lots, standing[number])
            for number, room in self._rooms(grade, hour_ends_at).items()
        )
        return Pledge(sum(standing.values()), timed)

    def pledge(self, grade: str, starts_at: int) -> Pledge:
        """Return what of an hour is pledged to packages."""
        of_grade = self.pledges.get(grade)
        return of_grade.get(starts_at, NO_PLEDGE) if of_grade else NO_PLEDGE

    def pledged_shares(self, grade: str, hour_ends_at: int) -> list[delivery.Share]:
        """Return which clusters deliver an hour's packages, failed lots last."""
        pledge = self.pledge(grade, hour_ends_at - contract.HOUR)
        if not pledge.lots:
            return []
        certified = self._standing(grade, hour_ends_at)
        rooms = {
            number: delivery.Room(0, min(room.timed_lots, certified[number]))
            for number, room in self._rooms(grade, hour_ends_at).items()
        }
        behind = min(pledge.lots, sum(certified.values()))
        timed = delivery.Slots(0, pledge.p1_lots)
        return delivery.split_obligation(
            obligation=0,
            lots=pledge.lots,
            certified_lots=certified,
            slots=delivery.deliverable(timed, behind, rooms.values()),
            rooms=rooms,
        )

    def slot_rooms(self, grade: str, hour_ends_at: int) -> dict[int, delivery.Room]:
        """Return how many slots each cluster may be behind in an hour (RULEBOOK 4.3).

        Beside those that go with packages, and with lots that are not pledged.
        """
        rooms = self._rooms(grade, hour_ends_at)
        standing = self._standing(grade, hour_ends_at)
        if self.backs:
            for number, room in rooms.items():
                timed = min(room.timed_lots, standing[number])
                rooms[number] = delivery.Room(min(room.p0_lots, timed), timed)
        if self.pledges:
            for share in self.pledged_shares(grade, hour_ends_at):
                if share.cluster != delivery.NO_CLUSTER:
                    room, lots = rooms[share.cluster], standing[share.cluster]
                    timed = min(room.timed_lots - share.p1_lots, lots - share.lots)
                    rooms[share.cluster] = delivery.Room(min(room.p0_lots, timed), timed)
        return rooms

    def _rooms(self, grade: str, hour_ends_at: int) -> dict[int, delivery.Room]:
        """Return how many slots each cluster may be behind in an hour by its certificate."""
        return {
            cluster.id: delivery.room(
                cluster.lots, p0_max=cluster.p0_lots, timed_max=cluster.timed_lots
            )
            for cluster in self.clusters.values()
            if cluster.grade == grade and cluster.valid_until >= hour_ends_at
        }
