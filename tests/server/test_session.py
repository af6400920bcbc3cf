"""The Session stream: order, groups, errors of single commands, bounds, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from ravel_node.machine import envelope
from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import ReplicaId
from ravel_node.replica.errors import LeadershipLostError, NotLeaderError, ReplicaStoppedError
from ravel_node.replica.reads import ReadMode
from ravel_node.server.app import ServerOptions, build_client_server
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.limits import Limits
from ravel_node.server.session import SessionStream
from ravelpb.v1 import common_pb2, kv_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub
from tests.server.fakes import CLUSTER, FakeHost, as_host, info_of, info_of_status, serving

LIMITS = Limits(value_bytes_max=200_000, request_bytes_max=400_000, session_requests_max=8, session_bytes_max=1_000_000)


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def channel(host: FakeHost) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(host, limits=LIMITS) as channel:
        yield channel


def put(key: bytes, value: bytes = b"v") -> kv_pb2.Command:
    return kv_pb2.Command(put=kv_pb2.PutRequest(key=key, value=value))


def get(key: bytes, consistency: Any = 0) -> kv_pb2.Command:
    return kv_pb2.Command(get=kv_pb2.GetRequest(key=key, consistency=consistency))


def delete(key: bytes) -> kv_pb2.Command:
    return kv_pb2.Command(delete=kv_pb2.DeleteRequest(key=key))


def batch(id_: int, *commands: kv_pb2.Command, once: common_pb2.Once | None = None) -> kv_pb2.SessionRequest:
    return kv_pb2.SessionRequest(id=id_, commands=commands, once=once)


async def ask(channel: grpc.aio.Channel, *requests: kv_pb2.SessionRequest) -> list[kv_pb2.SessionResponse]:
    """Send all, then end the stream; every answer."""
    call = KVStub(channel).Session(iter(requests))
    return [response async for response in call]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def reason(result: kv_pb2.Result) -> str:
    assert result.WhichOneof("result") == "error", result
    return str(info_of_status(result.error).reason)


async def test_a_batch_is_answered_in_order_with_one_proposal_for_its_writes(channel: grpc.aio.Channel, host: FakeHost) -> None:
    swap = kv_pb2.Command(compare_and_swap=kv_pb2.CompareAndSwapRequest(key=b"a", expected_revision=5, value=b"x"))
    write = kv_pb2.Command(
        write=kv_pb2.WriteRequest(operations=[kv_pb2.Operation(put=kv_pb2.PutOperation(key=b"w", value=b"1"))])
    )
    take = kv_pb2.Command(get_and_delete=kv_pb2.GetAndDeleteRequest(key=b"a"))
    (response,) = await ask(channel, batch(9, put(b"a", b"1"), swap, write, take, delete(b"none")))
    assert (response.id, response.header.cluster_id, response.header.term) == (9, CLUSTER, 3)
    assert [result.WhichOneof("result") for result in response.results] == [
        "put",
        "compare_and_swap",
        "write",
        "get_and_delete",
        "delete",
    ]
    results = response.results
    assert results[0].put.revision == 1
    assert (results[1].compare_and_swap.swapped, results[1].compare_and_swap.value) == (False, b"1")
    assert results[2].write.done
    assert results[3].get_and_delete.value == b"1"
    assert not results[4].delete.found
    assert not results[0].put.HasField("header")
    assert [(proposal.count, proposal.grows) for proposal in host.fake.proposals] == [(5, True)]


async def test_reads_wait_for_the_writes_before_them(channel: grpc.aio.Channel, host: FakeHost) -> None:
    (response,) = await ask(
        channel, batch(1, get(b"a"), put(b"a", b"1"), put(b"b"), get(b"a"), get(b"b"), delete(b"a"), get(b"a"))
    )
    results = response.results
    assert not results[0].get.found
    assert results[0].WhichOneof("result") == "get"
    assert (results[3].get.value, results[3].get.revision) == (b"1", 1)
    assert results[4].get.found
    assert not results[6].get.found
    assert [proposal.count for proposal in host.fake.proposals] == [2, 1]
    assert not host.fake.proposals[1].grows


async def test_reads_side_by_side_share_one_barrier(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.free = False
    await ask(channel, batch(1, *[get(b"k%d" % i) for i in range(50)], get(b"q", 1), get(b"r", 1)))
    assert len(host.fake.barriers) == 2


async def test_while_the_state_is_cold_all_reads_of_a_run_are_paged_in_at_once(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.cold = True
    (response,) = await ask(channel, batch(1, put(b"b", b"1"), *(get(key) for key in (b"a", b"b", b"c"))))
    assert [result.get.found for result in response.results[1:]] == [False, True, False]
    assert host.fake.paged_in == [b"a", b"b", b"c"]


async def test_sequences_count_reads_too(channel: grpc.aio.Channel, host: FakeHost) -> None:
    client_id = (await KVStub(channel).RegisterSession(kv_pb2.RegisterSessionRequest())).client_id
    once = common_pb2.Once(client_id=client_id, sequence=10, acked_below=10)
    request = batch(1, put(b"a"), get(b"a"), put(b"b"), delete(b"a"), once=once)
    (first,) = await ask(channel, request)
    groups = [envelope.decode(envelope.payload([proposal.group])) for proposal in host.fake.proposals[1:]]
    offsets = [(once.sequence, [offset for _, offset, _ in commands]) for [(once, commands)] in groups if once]
    assert offsets == [(10, [0]), (10, [2, 3])]
    (again,) = await ask(channel, request)
    assert [again.results[i] for i in (0, 2, 3)] == [first.results[i] for i in (0, 2, 3)]


async def test_bad_commands_fail_alone(channel: grpc.aio.Channel) -> None:
    own = kv_pb2.Command(put=kv_pb2.PutRequest(key=b"k", once=common_pb2.Once(client_id=1, sequence=1)))
    (response,) = await ask(
        channel,
        batch(1, put(b"a"), put(b""), own, kv_pb2.Command(), get(b""), get(b"a", 7), put(b"b", b"v" * 200_001), get(b"a")),
    )
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["put", "error", "error", "error", "error", "error", "error", "get"]
    reasons = [reason(result) for result in response.results[1:7]]
    invalid = "INVALID_ARGUMENT"
    assert reasons == ["KEY_EMPTY", invalid, invalid, "KEY_EMPTY", invalid, "VALUE_TOO_LARGE"]
    assert response.results[7].get.found


async def test_an_unknown_outcome_is_told_for_each_command_of_its_group(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.failures = [LeadershipLostError()]
    first, second = await ask(channel, batch(1, put(b"a"), delete(b"b"), get(b"a"), put(b"c")), batch(2, put(b"d")))
    assert [reason(result) for result in first.results[:2]] == ["OUTCOME_UNKNOWN"] * 2
    assert first.results[0].error.code == grpc.StatusCode.ABORTED.value[0]
    assert first.results[2].WhichOneof("result") == "get"
    assert first.results[3].WhichOneof("result") == "put"
    assert second.results[0].WhichOneof("result") == "put"


async def test_reads_tell_who_leads(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.free = False
    host.fake.barrier_failure = NotLeaderError(ReplicaId(2), "10.0.0.2:7400")
    (response,) = await ask(channel, batch(1, get(b"a"), get(b"b")))
    assert [reason(result) for result in response.results] == ["NOT_LEADER"] * 2
    assert info_of_status(response.results[0].error).metadata["leader_address"] == "10.0.0.2:7400"


async def test_a_full_store_still_takes_the_deletes_of_a_batch(channel: grpc.aio.Channel, host: FakeHost) -> None:
    await ask(channel, batch(1, put(b"a")))
    host.fake.quota_full = True
    (response,) = await ask(channel, batch(2, put(b"b"), delete(b"a"), put(b"c")))
    assert [result.WhichOneof("result") for result in response.results] == ["error", "delete", "error"]
    assert reason(response.results[0]) == "QUOTA_EXCEEDED"
    assert response.results[1].delete.found


async def test_session_outcomes_of_single_commands(channel: grpc.aio.Channel) -> None:
    once = common_pb2.Once(client_id=99, sequence=1, acked_below=1)
    (response,) = await ask(channel, batch(1, put(b"a"), get(b"a"), once=once))
    assert reason(response.results[0]) == "SESSION_EXPIRED"
    assert not response.results[1].get.found


async def test_a_forgotten_answer_names_the_sequence_of_its_command(channel: grpc.aio.Channel) -> None:
    client_id = (await KVStub(channel).RegisterSession(kv_pb2.RegisterSessionRequest())).client_id
    once = common_pb2.Once(client_id=client_id, sequence=10, acked_below=10)
    await ask(channel, batch(1, put(b"a"), put(b"b"), put(b"c"), once=once))
    await ask(channel, batch(2, put(b"d"), once=common_pb2.Once(client_id=client_id, sequence=13, acked_below=12)))
    (response,) = await ask(channel, batch(3, put(b"a"), put(b"b"), put(b"c"), once=once))
    assert [result.WhichOneof("result") for result in response.results] == ["error", "error", "put"]
    assert [info_of_status(result.error).metadata["value"] for result in response.results[:2]] == ["10", "11"]


@pytest.mark.parametrize(
    ("request_", "expected", "count"),
    [
        (batch(1), "INVALID_ARGUMENT", 1),
        (batch(1, *[delete(b"k")] * 1024, once=common_pb2.Once(client_id=1)), "INVALID_ARGUMENT", 1024),
        (batch(1, *[delete(b"k")] * 1025), "INVALID_ARGUMENT", 1),
        (batch(1, *[kv_pb2.Command()] * 100_000), "INVALID_ARGUMENT", 1),
        (batch(1, put(b"a", b"v" * 200_000), put(b"a", b"v" * 200_000)), "REQUEST_TOO_LARGE", 2),
        (batch(1, put(b"a"), once=common_pb2.Once(client_id=1)), "INVALID_ARGUMENT", 1),
    ],
)
async def test_a_request_that_breaks_a_limit_as_a_whole_fails_alone(
    channel: grpc.aio.Channel, host: FakeHost, request_: kv_pb2.SessionRequest, expected: str, count: int
) -> None:
    refused, fine = await ask(channel, request_, batch(2, put(b"a")))
    assert [reason(result) for result in refused.results] == [expected] * count
    assert fine.results[0].WhichOneof("result") == "put"
    assert len(host.fake.proposals) == 1


async def test_requests_are_pipelined_and_answered_in_their_order(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.gate = asyncio.Event()
    call: Any = KVStub(channel).Session()
    for id_ in range(4):
        await call.write(batch(id_, put(b"k%d" % id_)))
    await call.write(batch(4, get(b"k0")))  # ready at once, and still answered last
    await eventually(lambda: len(host.fake.proposals) == 4)
    host.fake.gate.set()
    assert [(await call.read()).id for _ in range(5)] == list(range(5))
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


async def test_no_more_is_read_than_may_wait(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.gate = asyncio.Event()
    call: Any = KVStub(channel).Session()
    for id_ in range(20):
        await call.write(batch(id_, put(b"k%d" % id_)))
    await eventually(lambda: len(host.fake.proposals) == LIMITS.session_requests_max)
    await asyncio.sleep(0.2)
    assert len(host.fake.proposals) == LIMITS.session_requests_max
    host.fake.gate.set()
    assert [(await call.read()).id for _ in range(20)] == list(range(20))
    call.cancel()


async def test_a_caller_that_takes_no_answers_stops_itself(channel: grpc.aio.Channel, host: FakeHost) -> None:
    """Values read for answers nobody takes are bounded in bytes, however many requests come."""
    await ask(channel, batch(0, put(b"big", b"v" * 200_000)))
    served: list[int] = []
    machine_get = host.fake.state.get

    def counting(database: Any, key: bytes) -> bytes | None:
        served.append(1)
        return machine_get(database, key)

    host.fake.state.get = counting  # type: ignore[method-assign]
    call: Any = KVStub(channel).Session()

    async def flood() -> None:
        for id_ in range(200):
            await call.write(batch(id_, *[get(b"big")] * 5))

    writer = asyncio.create_task(flood())
    await asyncio.sleep(0.7)
    assert len(served) * 200_000 <= 40_000_000  # 200 requests would be 200 MB
    assert len(served) < 1000, "all was read though nobody takes an answer"
    for id_ in range(200):
        response = await call.read()
        assert response.id == id_
        assert [len(result.get.value) for result in response.results] == [200_000] * 5
    await writer
    call.cancel()


async def test_reads_that_wait_for_the_same_barrier_do_not_exceed_the_bound_together(
    channel: grpc.aio.Channel, host: FakeHost
) -> None:
    """Each of them found room before it waited, and only the first of them find it afterwards."""
    await ask(channel, batch(0, put(b"big", b"v" * 200_000)))
    host.fake.free, host.fake.barrier_gate = False, asyncio.Event()

    async def requests() -> AsyncIterator[kv_pb2.SessionRequest]:
        for id_ in range(LIMITS.session_requests_max):
            yield batch(id_, *[get(b"big")] * 5)

    def header(replica: object) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader()

    stream = SessionStream(as_host(host), LIMITS, requests(), Interrupts(), header)
    answers = stream.answers()
    first = asyncio.ensure_future(anext(answers))
    await eventually(lambda: len(host.fake.barriers) == LIMITS.session_requests_max)
    host.fake.barrier_gate.set()
    responses = [await first]
    for _ in range(100):
        await asyncio.sleep(0)  # so that all of them may go on
    assert stream._held_bytes < LIMITS.session_bytes_max + 5 * 200_000 + 1_000
    responses.extend([answer async for answer in answers])
    values = [[len(result.get.value) for result in answer.results] for answer in responses]
    assert values == [[200_000] * 5] * LIMITS.session_requests_max


class Direct:
    """One stream without a wire: the test hands requests over and takes answers, one at a time."""

    def __init__(self, host: FakeHost) -> None:
        self.read = 0  # requests that the stream has taken
        self._requests: asyncio.Queue[kv_pb2.SessionRequest] = asyncio.Queue()
        stream = SessionStream(as_host(host), LIMITS, self._next(), Interrupts(), lambda _: common_pb2.ResponseHeader())
        self._answers = stream.answers()

    async def _next(self) -> AsyncIterator[kv_pb2.SessionRequest]:
        while True:
            request = await self._requests.get()
            self.read += 1
            yield request

    def ask(self, *requests: kv_pb2.SessionRequest) -> None:
        for request in requests:
            self._requests.put_nowait(request)

    def begin(self) -> asyncio.Task[kv_pb2.SessionResponse]:
        """Wait for the next answer. The stream reads only once somebody waits."""
        return asyncio.create_task(anext(self._answers))

    async def take(self, count: int) -> list[int]:
        """The ids of so many answers."""
        async with asyncio.timeout(30):
            return [(await anext(self._answers)).id for _ in range(count)]

    async def close(self) -> None:
        await self._answers.aclose()


async def settle() -> None:
    """Let whatever can go on without the test go on."""
    for _ in range(300):
        await asyncio.sleep(0)


@pytest.fixture
async def direct(host: FakeHost) -> AsyncIterator[Direct]:
    direct = Direct(host)
    yield direct
    await direct.close()


@pytest.fixture
def big(host: FakeHost) -> kv_pb2.Command:
    """A get whose value is a fifth of what one stream may hold."""
    host.fake.machine.apply(
        host.fake.applied, envelope.payload([envelope.group([envelope.put(b"big", bytes(200_000))])]), host.fake.state
    )
    return get(b"big")


async def test_values_are_read_as_answers_are_taken_and_no_faster(direct: Direct, host: FakeHost, big: kv_pb2.Command) -> None:
    """Only the oldest request is served while its values fill the bound; each answer that leaves lets in the next."""
    direct.ask(*(batch(number, *[big] * 5) for number in range(6)))
    for number in range(6):
        assert await direct.take(1) == [number]
        await settle()
        assert host.fake.vitals.reads == 5 * (number + 1)


async def test_a_stream_that_was_full_reads_ahead_again_as_before(direct: Direct, host: FakeHost, big: kv_pb2.Command) -> None:
    """What was held for answers that have left is released, whole: of the requests and of the values."""
    most = LIMITS.session_requests_max
    gate = host.fake.gate = asyncio.Event()
    done = 0
    for _ in range(3):
        direct.ask(*(batch(number, *[big] * 5) for number in range(4)))
        assert await direct.take(4) == [0, 1, 2, 3]
        done += 4
        gate.clear()
        direct.ask(*(batch(number, put(b"k", b"v")) for number in range(most + 3)))
        first = direct.begin()
        await settle()
        assert direct.read == done + most, "as many small requests wait side by side as on a new stream"
        gate.set()
        assert (await first).id == 0
        assert await direct.take(most + 2) == list(range(1, most + 3))
        done += most + 3


async def test_the_bytes_of_requests_count_and_are_released(direct: Direct, host: FakeHost) -> None:
    gate = host.fake.gate = asyncio.Event()
    value = bytes(190_000)
    done = 0
    for _ in range(3):
        gate.clear()
        direct.ask(*(batch(number, put(b"k", value)) for number in range(8)))
        first = direct.begin()
        await settle()
        assert direct.read == done + 6, "six requests pass the bound of a million bytes"
        gate.set()
        assert (await first).id == 0
        assert await direct.take(7) == list(range(1, 8))
        done += 8


async def test_the_oldest_request_is_served_though_younger_ones_have_taken_all_room(
    direct: Direct, host: FakeHost, big: kv_pb2.Command
) -> None:
    """It waits for a barrier while they read; if it then waited for room, nobody would ever make any."""
    host.fake.free, host.fake.free_modes = False, {ReadMode.STALE}
    barrier = host.fake.barrier_gate = asyncio.Event()
    stale = get(b"big", consistency=int(ReadMode.STALE))
    direct.ask(batch(0, get(b"big")), *(batch(number, *[stale] * 5) for number in range(1, 4)))
    first = direct.begin()
    await settle()
    assert host.fake.vitals.reads == 5, "the first of the younger ones fills the bound, and the others wait"
    barrier.set()
    async with asyncio.timeout(30):
        assert (await first).id == 0
    assert await direct.take(3) == [1, 2, 3]


async def test_a_read_that_was_paged_in_passes_the_barrier_after_that(
    direct: Direct, host: FakeHost, big: kv_pb2.Command
) -> None:
    """A lease that held before the disk was waited for may be over by now."""
    host.fake.cold, host.fake.free = True, False
    order: list[str] = []
    page_in, read_barrier = host.fake.page_in, host.fake.read_barrier

    async def paging(keys: Any) -> None:
        order.append("page-in")
        await page_in(keys)

    async def passing(mode: ReadMode) -> None:
        order.append("barrier")
        await read_barrier(mode)

    host.fake.page_in, host.fake.read_barrier = paging, passing  # type: ignore[method-assign]
    direct.ask(batch(0, big))
    assert await direct.take(1) == [0]
    assert order == ["page-in", "barrier"]


async def test_what_does_not_fit_one_answer_is_refused_by_key(host: FakeHost) -> None:
    async with serving(host, limits=Limits(answer_bytes_max=250_000)) as channel:
        await ask(channel, batch(0, put(b"big", b"v" * 100_000)))
        (response,) = await ask(channel, batch(1, *[get(b"big")] * 4, get(b"none")))
    assert [result.WhichOneof("result") for result in response.results] == ["get", "get", "error", "error", "get"]
    assert reason(response.results[2]) == "REQUEST_TOO_LARGE"


async def test_bytes_that_are_no_request_end_the_stream(channel: grpc.aio.Channel, host: FakeHost) -> None:
    call: Any = channel.stream_stream("/ravel.v1.KV/Session")()
    await call.write(batch(1, put(b"a")).SerializeToString())
    await call.write(b"\xff\xff\xff\xff")
    assert kv_pb2.SessionResponse.FromString(await call.read()).id == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_broken_invariant_ends_the_stream_and_is_told(channel: grpc.aio.Channel, host: FakeHost) -> None:
    failure = InvariantError("1 is not 2")
    host.fake.failures = [failure]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, batch(1, put(b"a")), batch(2, put(b"b")))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert host.fatal == [failure]


async def test_a_stopping_server_answers_what_it_has_read_and_ends_idle_streams(host: FakeHost) -> None:
    server = build_client_server(as_host(host), ServerOptions("127.0.0.1:0"), host.fatal.append)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        host.fake.gate = asyncio.Event()
        stub: Any = KVStub(channel)
        busy, idle = stub.Session(), stub.Session()
        await busy.write(batch(1, put(b"a")))
        await idle.write(batch(1, get(b"a")))
        assert (await idle.read()).id == 1
        await eventually(lambda: len(host.fake.proposals) == 1)
        stopping = asyncio.create_task(server.stop(30.0))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await idle.read()
        assert info_of(caught.value).reason == "SHUTTING_DOWN"
        host.fake.gate.set()
        assert (await busy.read()).results[0].put.revision == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await busy.read()
        async with asyncio.timeout(10):
            await stopping


async def test_a_replica_that_stops_refuses_each_request(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.failure = ReplicaStoppedError()
    refused: list[grpc.aio.AioRpcError] = []
    while not refused:
        try:
            await ask(channel, batch(1, put(b"a")))
        except grpc.aio.AioRpcError as error:
            # grpc.aio puts a write that failed where the reason was, if the stream ends while it writes.
            refused += [] if "SendMessageOperation" in repr(error) else [error]
    assert info_of(refused[0]).reason == "SHUTTING_DOWN"


async def test_a_caller_that_goes_away_leaves_nothing_behind(channel: grpc.aio.Channel, host: FakeHost) -> None:
    host.fake.gate = asyncio.Event()
    before = asyncio.all_tasks()
    call: Any = KVStub(channel).Session()
    await call.write(batch(1, put(b"a")))
    await eventually(lambda: len(host.fake.proposals) == 1)
    call.cancel()
    await eventually(lambda: not {task for task in asyncio.all_tasks() - before if task.get_name().startswith("session-")})
