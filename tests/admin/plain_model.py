"""The directory once more, in plain dictionaries, and told anew from what commands.py says: what the machine is compared with.

A command's answer is a dictionary, or the reason of its refusal.
"""

from __future__ import annotations

from typing import Any

from ravel_node.admin import commands
from ravel_node.admin.answers import field_values
from ravel_node.admin.commands import Command
from ravel_node.admin.model import Directory

Row = dict[str, Any]


class RefusalError(Exception):
    """Refused, with this reason."""


def plain(directory: Directory) -> Row:
    """A directory of the machine in the shape of `Model.content`."""
    return {
        "servers": {name: field_values(server) for name, server in directory.servers.items()},
        "clusters": {number: field_values(cluster) for number, cluster in directory.clusters.items()},
        "moves": {move_id: {**field_values(move), "slots": list(move.slots)} for move_id, move in directory.moves.items()},
        "owners": directory.slot_map.owners,
        "version": directory.slot_map.version,
        "decided": directory.slot_map.decided,
        "last": (directory.last_cluster, directory.last_move),
    }


class Model:
    def __init__(self) -> None:
        self.content: Row = {"servers": {}, "clusters": {}, "moves": {}, "owners": (0,) * 4096, "version": 0, "last": (0, 0)}
        self.content["decided"] = (0,) * 4096

    def run(self, command: Command, index: int) -> Row | str:
        rows = ("servers", "clusters", "moves")
        kept = {**self.content, **{name: {key: {**row} for key, row in self.content[name].items()} for name in rows}}
        try:
            answer: Row = getattr(self, type(command).__name__)(command, index)
        except RefusalError as refused:
            self.content = kept
            return str(refused)
        return answer

    # --- looking

    @property
    def servers(self) -> dict[str, Row]:
        return self.content["servers"]  # type: ignore[no-any-return]

    @property
    def clusters(self) -> dict[int, Row]:
        return self.content["clusters"]  # type: ignore[no-any-return]

    @property
    def moves(self) -> dict[int, Row]:
        return self.content["moves"]  # type: ignore[no-any-return]

    def of(self, number: int) -> list[Row]:
        return [server for server in self.servers.values() if server["cluster"] == number]

    def one(self, **wanted: object) -> Row | None:
        found = [row for row in self.clusters.values() if all(row[name] == value for name, value in wanted.items())]
        return found[0] if found else None

    def was(self, cluster_id: str) -> bool:
        return any(cluster_id in row["superseded"] for row in self.clusters.values())

    def busy(self, number: int) -> bool:
        moving = any(number in (move["source"], move["destination"]) for move in self.moves.values())
        return moving or number in self.content["owners"]

    # --- commands

    def RegisterServer(self, command: commands.RegisterServer, _index: int) -> Row:  # noqa: N802
        me = self.servers.get(command.server_id)
        founding, newest = False, self.content["last"][0]
        if command.cluster_id:
            cluster = self.one(cluster_id=command.cluster_id)
            if cluster is None:
                raise RefusalError("SUPERSEDED" if self.was(command.cluster_id) else "WRONG_CLUSTER_ID")
            if me and me["cluster"] != cluster["number"]:
                if me["seat"] != "assigned":
                    raise RefusalError("WRONG_IDENTITY")
                self.strike(me)
                me = None
            if me and me["replica_id"] not in (0, command.replica_id):
                raise RefusalError("WRONG_IDENTITY")
            if any(row["replica_id"] == command.replica_id and row is not me for row in self.of(cluster["number"])):
                raise RefusalError("WRONG_IDENTITY")
        elif me:
            cluster = self.clusters[me["cluster"]]
            if me["seat"] == "assigned" and command.new_cluster and command.new_cluster != cluster["name"]:
                raise RefusalError("WRONG_IDENTITY")
            founding = True
        else:
            cluster = self.choose(command)
            founding = True
        entry = {
            "server_id": command.server_id,
            "name": command.name,
            "version": command.version,
            "format": command.format,
            "listen": command.listen,
            "peer": command.peer,
            "cluster": cluster["number"],
            "seat": me["seat"] if me else "assigned",
            "replica_id": command.replica_id or (me["replica_id"] if me else 0),
            "leaving": me["leaving"] if me else False,
        }
        for row in self.servers.values():
            if row is not me and row["listen"] and {row["listen"], row["peer"]} & {entry["listen"], entry["peer"]}:
                raise RefusalError("ADDRESS_TAKEN")
        if any(row is not me and row["name"] == entry["name"] and row["listen"] for row in self.of(cluster["number"])):
            raise RefusalError("NAME_TAKEN")
        if founding and not cluster["founded"] and not cluster["founder_id"]:
            if cluster["number"] <= newest and (self.one(cluster_id=command.fresh_id) or self.was(command.fresh_id)):
                raise RefusalError("INVALID_ARGUMENT")
            cluster.update(founder_id=command.server_id, cluster_id=command.fresh_id)
            if not any(self.content["owners"]) and not any(row["founded"] for row in self.clusters.values()):
                self.own_all(cluster["number"])
        self.servers[command.server_id] = entry
        return {"cluster": cluster["number"]}

    def choose(self, command: commands.RegisterServer) -> Row:
        if command.new_cluster or not self.clusters:
            cluster = self.one(name=command.new_cluster or "default")
            if cluster is None:
                return self.make(command.new_cluster or "default", command.fresh_id, 3)
            if cluster["emptying"]:
                raise RefusalError("CLUSTER_IN_USE")
            return cluster
        sizes = {
            number: sum(not row["leaving"] for row in self.of(number))
            for number, row in self.clusters.items()
            if not row["emptying"]
        }
        if not sizes:
            raise RefusalError("CLUSTER_IN_USE")
        return self.clusters[min(sizes, key=lambda number: (sizes[number], number))]

    def make(self, name: str, cluster_id: str, wanted: int) -> Row:
        if self.one(cluster_id=cluster_id) or self.was(cluster_id):
            raise RefusalError("INVALID_ARGUMENT")
        number = self.content["last"][0] + 1
        self.content["last"] = (number, self.content["last"][1])
        self.clusters[number] = {
            "number": number,
            "name": name,
            "cluster_id": cluster_id,
            "replicas_wanted": wanted,
            "founder_id": "",
            "founded": False,
            "leader_id": "",
            "term": 0,
            "config_index": 0,
            "emptying": False,
            "superseded": (),
        }
        return self.clusters[number]

    def own_all(self, number: int) -> None:
        self.content["version"] += 1
        self.give((number,) * 4096)

    def strike(self, server: Row) -> None:
        del self.servers[server["server_id"]]
        cluster = self.clusters[server["cluster"]]
        if not cluster["founded"] and cluster["founder_id"] == server["server_id"]:
            cluster["founder_id"] = ""

    def ReportMembership(self, command: commands.ReportMembership, _index: int) -> Row:  # noqa: N802
        cluster = self.one(cluster_id=command.cluster_id)
        if cluster is None:
            raise RefusalError("SUPERSEDED" if self.was(command.cluster_id) else "WRONG_CLUSTER_ID")
        known = (cluster["term"], cluster["leader_id"])
        if command.term < known[0] or command.config_index < cluster["config_index"]:
            raise RefusalError("STALE_REPORT")
        if command.term == known[0] and command.leader_id != known[1]:
            raise RefusalError("STALE_REPORT")
        cluster.update(founded=True, term=command.term, leader_id=command.leader_id, config_index=command.config_index)
        members = {member.server_id: member for member in command.members}
        for server in self.of(cluster["number"]):
            if server["server_id"] not in members:
                if server["leaving"] or server["seat"] != "assigned":
                    del self.servers[server["server_id"]]
                elif server["replica_id"] in [member.replica_id for member in command.members]:
                    server["replica_id"] = 0
        for server_id, member in members.items():
            blank = dict.fromkeys(("name", "version", "listen", "peer"), "")
            row = self.servers.setdefault(
                server_id, {"server_id": server_id, **blank, "format": 0, "cluster": cluster["number"], "leaving": False}
            )
            if row["cluster"] == cluster["number"]:
                row.update(seat="learner" if member.learner else "voter", replica_id=member.replica_id)
        return {}

    def MarkLeaving(self, command: commands.MarkLeaving, _index: int) -> Row:  # noqa: N802
        server = self.servers.get(command.server_id)
        if server is None:
            raise RefusalError("NOT_FOUND")
        number = server["cluster"]
        others = [row for row in self.of(number) if row is not server]
        if not others and not self.busy(number):
            self.strike(server)
            del self.clusters[number]
            return {"struck": True}
        if server["leaving"]:
            return {"struck": False}
        members = [row for row in others if row["seat"] != "assigned" and not row["leaving"]]
        if self.busy(number) and not members and (server["seat"] != "assigned" or not others):
            raise RefusalError("LAST_REPLICA")
        if server["seat"] == "assigned" and not self.clusters[number]["founded"]:
            self.strike(server)
            return {"struck": True}
        server["leaving"] = True
        return {"struck": False}

    def ForgetServer(self, command: commands.ForgetServer, _index: int) -> Row:  # noqa: N802
        server = self.servers.get(command.server_id)
        if server is None:
            raise RefusalError("NOT_FOUND")
        if server["seat"] != "assigned" and not (server["leaving"] and not self.busy(server["cluster"])):
            raise RefusalError("UNSAFE_CHANGE")
        self.strike(server)
        return {}

    def SetCluster(self, command: commands.SetCluster, _index: int) -> Row:  # noqa: N802
        cluster = self.one(name=command.name) or self.make(command.name, command.fresh_id, 3)
        takers = [row for row in self.clusters.values() if row is not cluster and row["founded"] and not row["emptying"]]
        if command.emptying and not cluster["emptying"] and cluster["number"] in self.content["owners"] and not takers:
            raise RefusalError("CLUSTER_IN_USE")
        cluster["replicas_wanted"] = command.replicas_wanted or cluster["replicas_wanted"]
        cluster["emptying"] = command.emptying
        return {"cluster": cluster["number"]}

    def RemoveCluster(self, command: commands.RemoveCluster, _index: int) -> Row:  # noqa: N802
        cluster = self.one(name=command.name)
        if cluster is None:
            raise RefusalError("NOT_FOUND")
        number = cluster["number"]
        unborn = not cluster["founded"] and len(self.clusters) == 1
        if self.of(number) or (self.busy(number) and not unborn):
            raise RefusalError("CLUSTER_IN_USE")
        if number in self.content["owners"]:
            self.own_all(0)
        del self.clusters[number]
        return {}

    def AdoptCluster(self, command: commands.AdoptCluster, _index: int) -> Row:  # noqa: N802
        cluster = self.one(name=command.name)
        if cluster is None:
            raise RefusalError("NOT_FOUND")
        number = cluster["number"]
        if cluster["cluster_id"] != command.cluster_id:
            if cluster["cluster_id"] != command.superseded_id:
                raise RefusalError("STALE_VIEW")
            if self.one(cluster_id=command.cluster_id) or self.was(command.cluster_id):
                raise RefusalError("INVALID_ARGUMENT")
            cluster["superseded"] = (cluster["cluster_id"], *cluster["superseded"])[:16]
            cluster.update(cluster_id=command.cluster_id, founded=True, founder_id="", leader_id="", term=0, config_index=0)
            for server in self.of(number):
                del self.servers[server["server_id"]]
            for move in [row for row in self.moves.values() if number in (row["source"], row["destination"])]:
                if move["phase"] == "planned":
                    del self.moves[move["move_id"]]
                elif move["phase"] == "copying":
                    move["phase"] = "aborted"
            self.content["version"] += bool(self.content["version"])
        return {"cluster": number}

    def VacateAddress(self, command: commands.VacateAddress, _index: int) -> Row:  # noqa: N802
        server = self.servers.get(command.server_id)
        if server is None:
            raise RefusalError("NOT_FOUND")
        if (server["listen"], server["peer"]) == (command.listen, command.peer):
            server.update(listen="", peer="")
        return {}

    def PlanMoves(self, command: commands.PlanMoves, index: int) -> Row:  # noqa: N802
        if command.map_version != self.content["version"]:
            raise RefusalError("STALE_VIEW")
        ids: list[int] = []
        moving = [slot for move in self.moves.values() for slot in move["slots"]]
        for move in command.moves:
            pair = [self.clusters.get(move.source), self.clusters.get(move.destination)]
            if not all(row and row["founded"] for row in pair) or (pair[1] and pair[1]["emptying"]):
                raise RefusalError("MOVE_REFUSED")
            if any(slot in moving or self.content["owners"][slot] != move.source for slot in move.slots):
                raise RefusalError("MOVE_REFUSED")
            ids.append(max(self.content["last"][1] + 1, index * 65_536))
            self.content["last"] = (self.content["last"][0], ids[-1])
            self.moves[ids[-1]] = {
                "move_id": ids[-1],
                **field_values(move),
                "slots": list(move.slots),
                "phase": "planned",
                "map_version": 0,
            }
        return {"moves": ids}

    def BeginMove(self, command: commands.BeginMove, _index: int) -> Row:  # noqa: N802
        move = self.moves.get(command.move_id)
        if move is None:
            raise RefusalError("NOT_FOUND")
        pair = {move["source"], move["destination"]}
        others = [row for row in self.moves.values() if row["move_id"] < command.move_id]
        if move["phase"] not in ("planned", "copying"):
            raise RefusalError("MOVE_REFUSED")
        if any(pair & {row["source"], row["destination"]} for row in others):
            raise RefusalError("MOVE_REFUSED")
        move["phase"] = "copying"
        return {"map_version": self.content["version"]}

    def DecideMove(self, command: commands.DecideMove, _index: int) -> Row:  # noqa: N802
        move = self.moves.get(command.move_id)
        if move is None:
            raise RefusalError("NOT_FOUND")
        end = "committed" if command.commit else "aborted"
        if move["phase"] == "planned" and not command.commit:
            del self.moves[command.move_id]
        elif move["phase"] != end:
            if move["phase"] != "copying":
                raise RefusalError("MOVE_REFUSED")
            move["phase"] = end
            if command.commit:
                self.content["version"] += 1
                move["map_version"] = self.content["version"]
                owners = enumerate(self.content["owners"])
                self.give(tuple(move["destination"] if slot in move["slots"] else owner for slot, owner in owners))
        return {"map_version": self.content["version"]}

    def give(self, owners: tuple[int, ...]) -> None:
        """By the version that the map has by now."""
        decided = list(self.content["decided"])
        for slot in range(4096):
            if self.content["owners"][slot] != owners[slot]:
                decided[slot] = self.content["version"]
        self.content.update(owners=owners, decided=tuple(decided))

    def SetSlotMap(self, command: commands.SetSlotMap, _index: int) -> Row:  # noqa: N802
        if command.seen == "0" * 32:  # the tests' own; whatever else they send was seen just now
            raise RefusalError("STALE_VIEW")
        if any(owner and owner not in self.clusters for owner in command.owners):
            raise RefusalError("INVALID_ARGUMENT")
        for move in self.moves.values():
            owner = move["destination"] if move["phase"] == "committed" else move["source"]
            if move["move_id"] not in command.struck and any(command.owners[slot] != owner for slot in move["slots"]):
                raise RefusalError("INVALID_ARGUMENT")
        self.content["version"] = 2 + max(self.content["version"], command.map_version)
        self.give(command.owners)
        for move_id in command.struck:
            self.moves.pop(move_id, None)
        self.content["last"] = (self.content["last"][0], 1 + max(self.content["last"][1], command.last_move))
        return {"map_version": self.content["version"], "move": self.content["last"][1]}

    def FinishMove(self, command: commands.FinishMove, _index: int) -> Row:  # noqa: N802
        move = self.moves.get(command.move_id)
        if move is not None and move["phase"] in ("planned", "copying"):
            raise RefusalError("MOVE_REFUSED")
        self.moves.pop(command.move_id, None)
        return {}
